"""Artifacts on object storage: MLflow's client sends, reads, lists and deletes files through Kilter, which keeps them in the S3 that moto is.

    objects.py KILTER PYTHON            PYTHON: of an environment with moto and boto3; KILTER: built with `--features artifacts-cloud`
"""

import hashlib
import json
import logging
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree

import server  # sets the client up before it is imported

MIB = 1 << 20
os.environ.update(
    AWS_ACCESS_KEY_ID="someone",
    AWS_SECRET_ACCESS_KEY="secret/of+someone",
    AWS_REGION="eu-central-1",
    AWS_ALLOW_HTTP="true",
    MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE=str(5 * MIB),
    MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE=str(5 * MIB),
    MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE=str(5 * MIB),
)

import mlflow  # noqa: E402
import sklearn.linear_model  # noqa: E402
from mlflow.artifacts import download_artifacts  # noqa: E402

# What goes wrong here is to go wrong.
logging.getLogger("mlflow").setLevel(logging.ERROR)
# What botocore makes of an address: the signature that it should have.
SIGNED = """
import json, sys, urllib.parse
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
key, secret, region, calls = json.load(sys.stdin)
for method, url in calls:
    address, given = url.rsplit("&X-Amz-Signature=", 1)
    parts = urllib.parse.urlsplit(address)
    request = AWSRequest(method=method, url=address, headers={"host": parts.netloc})
    request.context["timestamp"] = dict(urllib.parse.parse_qsl(parts.query))["X-Amz-Date"]
    auth = S3SigV4QueryAuth(Credentials(key, secret), "s3", region)
    wanted = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    assert wanted == given, (method, url, wanted)
"""


class Storage:
    """moto's S3 with one bucket."""

    def __init__(self, python):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        code = f"from moto.server import ThreadedMotoServer as S; s = S('127.0.0.1', {port}); s.start(); s._thread.join()"
        self.process = subprocess.Popen([python, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 120
        while True:
            try:
                self.ask("/bucket", "PUT")
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < until, "moto does not start"
                time.sleep(0.1)

    def ask(self, path, method="GET", body=b""):
        request = urllib.request.Request(self.url + path, method=method, data=body if method == "PUT" else None)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def objects(self):
        listed = xml.etree.ElementTree.fromstring(self.ask("/bucket?list-type=2"))
        space = listed.tag.split("}")[0] + "}"
        return {one.find(space + "Key").text: one.find(space + "ETag").text.strip('"') for one in listed.iter(space + "Contents")}

    def uploads(self):
        return self.ask("/bucket?uploads").count(b"<UploadId>")

    def settled(self):
        until = time.monotonic() + 60
        while self.uploads():
            assert time.monotonic() < until, "an upload is left in the bucket"
            time.sleep(0.1)


def talk_to(kilter):
    """As a client that has just begun: it keeps what a server said that it can."""
    mlflow.set_tracking_uri(kilter.url)
    mlflow.tracking._tracking_service.utils._artifact_repos_cache.clear()


def send(kilter, path, body):
    """Status and answer of a request with JSON."""
    request = urllib.request.Request(kilter.url + path, method="POST", headers={"Content-Type": "application/json"}, data=json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def downloaded(run, name):
    with tempfile.TemporaryDirectory() as to:
        return digest(download_artifacts(run_id=run, artifact_path=name, dst_path=to))


def begin():
    with mlflow.start_run() as run:
        return run.info.run_id


def walk(storage, kilter, folder, python):
    large, small = folder / "large file.bin", folder / "small.txt"
    large.write_bytes(os.urandom(12 * MIB + 3))
    small.write_text("hello")
    client = mlflow.MlflowClient()
    run = begin()
    place = f"prefix/0/{run}/artifacts"
    client.log_artifact(run, str(small))
    client.log_artifact(run, str(large), "d/e ü")
    names = {f"{place}/small.txt", f"{place}/d/e ü/large file.bin"}
    assert set(storage.objects()) == names, storage.objects()
    # Three parts of 5 MiB are the client's own; the server would have sent two of 8 MiB.
    assert storage.objects()[f"{place}/d/e ü/large file.bin"].endswith("-3")
    assert [(f.path, f.is_dir, f.file_size) for f in client.list_artifacts(run)] == [("d", True, None), ("small.txt", False, 5)]
    assert [(f.path, f.file_size) for f in client.list_artifacts(run, "d/e ü")] == [("d/e ü/large file.bin", 12 * MIB + 3)]
    assert downloaded(run, "d/e ü/large file.bin") == digest(large) and downloaded(run, "small.txt") == digest(small)

    api = "/api/2.0/mlflow-artifacts"
    target = f"0/{run}/artifacts"
    status, begun = send(kilter, f"{api}/mpu/create/{target}", {"path": "/x/ü a.bin", "num_parts": 12})
    assert status == 200, begun
    signed = json.loads(kilter.ask(f"{api}/presigned/{target}/small.txt")[1])
    calls = [("PUT", part["url"]) for part in begun["credentials"]] + [("GET", signed["url"])]
    names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"]
    subprocess.run([python, "-c", SIGNED], input=json.dumps([*(os.environ[name] for name in names), calls]), text=True, check=True)
    body = {"path": "/x/ü a.bin", "upload_id": begun["upload_id"]}
    assert send(kilter, f"{api}/mpu/abort/{target}", body)[0] == 200
    assert send(kilter, f"{api}/mpu/abort/{target}", body)[0] == 404 and storage.uploads() == 0

    # The storage refuses parts so small when they are put together: the client gives the upload up.
    os.environ["MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE"] = str(MIB)
    before = storage.objects()
    try:
        client.log_artifact(run, str(large), "again")
        raise AssertionError("parts of 1 MiB were taken")
    except Exception as error:
        assert not isinstance(error, AssertionError), error
    os.environ["MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE"] = str(5 * MIB)
    assert storage.objects() == before and storage.uploads() == 0

    model = sklearn.linear_model.LogisticRegression().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
    info = mlflow.sklearn.log_model(
        model, name="m", pip_requirements=[], serialization_format="cloudpickle", registered_model_name="m"
    )
    loaded = mlflow.sklearn.load_model("models:/m/1")
    assert (loaded.predict([[0.0], [3.0]]) == [0, 1]).all() and info.model_id
    repository = mlflow.store.artifact.artifact_repository_registry.get_artifact_repository(client.get_run(run).info.artifact_uri)
    repository.delete_artifacts("d")
    assert [f.path for f in client.list_artifacts(run)] == ["small.txt"]
    return run, large, small


def through_the_server(storage, kilter, run, large, small):
    """Nothing is signed; what was signed before is read all the same."""
    info = json.loads(kilter.ask("/api/3.0/mlflow/server-info")[1])
    assert info["multipart_uploads_enabled"] is False and info["multipart_downloads_enabled"] is False, info
    client = mlflow.MlflowClient()
    for forced in [None, "true"]:
        for name in ["MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"]:
            os.environ.pop(name, None)
            if forced:
                os.environ[name] = forced
        client.log_artifact(run, str(large), f"by server {forced}")
        assert storage.objects()[f"prefix/0/{run}/artifacts/by server {forced}/{large.name}"].endswith("-2")
        assert downloaded(run, f"by server {forced}/{large.name}") == digest(large) and downloaded(run, "small.txt") == digest(small)
    for name in ["MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"]:
        os.environ.pop(name)
    path = f"/api/2.0/mlflow-artifacts/artifacts/0/{run}/artifacts/by%20server%20None/large%20file.bin"
    request = urllib.request.Request(kilter.url + path, headers={"Range": f"bytes={8 * MIB - 2}-{8 * MIB + 1}"})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 206 and answer.headers["Content-Range"] == f"bytes {8 * MIB - 2}-{8 * MIB + 1}/{12 * MIB + 3}"
        assert answer.read() == large.read_bytes()[8 * MIB - 2 : 8 * MIB + 2]


def broken(storage, kilter, run):
    """A client that goes away in the middle, and a server that is killed in the middle, leave nothing that anybody sees."""
    before = storage.objects()
    for kill in [False, True]:
        host, port = kilter.listen.split(":")
        with socket.create_connection((host, int(port))) as half:
            path = f"/api/2.0/mlflow-artifacts/artifacts/0/{run}/artifacts/half.bin"
            half.sendall(f"PUT {path} HTTP/1.1\r\nHost: {kilter.listen}\r\nContent-Length: {30 * MIB}\r\n\r\n".encode())
            half.sendall(bytes(20 * MIB))
            until = time.monotonic() + 60
            while not storage.uploads():
                assert time.monotonic() < until, "no part is sent"
                time.sleep(0.05)
            if kill:
                kilter.end(signal.SIGKILL)
        if kill:
            kilter.start()
        else:
            storage.settled()
        assert storage.objects() == before


def keys(kilter, program, folder, run):
    """A key for one experiment gets no address of a file of another."""
    create = [program, "key", "create", "one", "--data", folder, "--experiment", "mine=write"]
    key = subprocess.run(create, capture_output=True, text=True, check=True).stdout.split("kilter_")[1].split()[0]
    os.environ["MLFLOW_TRACKING_TOKEN"] = f"kilter_{key}"
    try:
        kilter.end(signal.SIGTERM)
        kilter.start()
        talk_to(kilter)
        mlflow.set_experiment("mine")
        with mlflow.start_run() as own:
            large = pathlib.Path(folder) / "own.bin"
            large.write_bytes(os.urandom(6 * MIB))
            mlflow.log_artifact(str(large))
            assert downloaded(own.info.run_id, "own.bin") == digest(large)
        api = f"{kilter.url}/api/2.0/mlflow-artifacts"
        for method, path, body in [
            ("GET", f"presigned/0/{run}/artifacts/small.txt", None),
            ("POST", f"mpu/create/0/{run}/artifacts", {"path": "a"}),
            ("POST", f"mpu/complete/0/{run}/artifacts", {"path": "a", "upload_id": "i", "parts": [{"part_number": 1, "etag": "e"}]}),
            ("POST", f"mpu/abort/0/{run}/artifacts", {"path": "a", "upload_id": "i"}),
        ]:
            headers = {"Authorization": f"Bearer kilter_{key}", "Content-Type": "application/json"}
            data = json.dumps(body).encode() if body else None
            try:
                urllib.request.urlopen(urllib.request.Request(f"{api}/{path}", method=method, headers=headers, data=data))
                raise AssertionError(f"{path} was answered")
            except urllib.error.HTTPError as error:
                assert error.code == 403, (path, error.code)
    finally:
        del os.environ["MLFLOW_TRACKING_TOKEN"]


def main():
    program, python = sys.argv[1:3]
    storage = Storage(python)
    os.environ["AWS_ENDPOINT_URL"] = storage.url
    try:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            data = folder / "data"
            with server.Server(program, data, "--artifacts", "s3://bucket/prefix") as kilter:
                talk_to(kilter)
                run, large, small = walk(storage, kilter, folder, python)
                assert not (data / "artifacts").exists(), "nothing lies in the folder"
            with server.Server(program, data, "--artifacts", "s3://bucket/prefix", "--artifacts-by-proxy") as kilter:
                talk_to(kilter)
                through_the_server(storage, kilter, run, large, small)
                broken(storage, kilter, run)
            with server.Server(program, data, "--artifacts", "s3://bucket/prefix") as kilter:
                keys(kilter, program, data, run)
        gone = subprocess.run([program, "tracking", "--data", folder, "--listen", "127.0.0.1:0", "--artifacts", "s3://nowhere"], capture_output=True, text=True)
        assert gone.returncode != 0 and "no such bucket" in gone.stderr, gone
    finally:
        storage.process.terminate()
        storage.process.wait(60)
    print("MLflow's client keeps files in S3 through Kilter, in parts and by signed addresses past it, and sees no half of one")


if __name__ == "__main__":
    main()
