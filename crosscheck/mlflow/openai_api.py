"""A service that answers as OpenAI's API does, as far as its client asks in the checks."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def completion(words, **more):
    message = {"role": "assistant", "content": words}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return {"id": "c-1", "object": "chat.completion", "created": 1, "model": "m-1", "choices": [choice], "usage": USAGE, **more}


def chunks(words):
    for at, word in enumerate(words):
        choice = {"index": 0, "finish_reason": "stop" if at == len(words) - 1 else None, "delta": {"role": "assistant", "content": word}}
        yield {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m-1", "choices": [choice]}
    yield {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m-1", "choices": [], "usage": USAGE}


class Api(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.endswith("/embeddings"):
            data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
            return self.answer({"object": "list", "model": "e-1", "data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}})
        if asked["messages"][-1]["content"] == "fail":
            return self.answer({"error": {"message": "no such model", "type": "invalid_request_error"}}, 400)
        if not asked.get("stream"):
            return self.answer(completion("Hi there"))
        events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks(["Hi", " there"])] + ["data: [DONE]\n\n"]
        self.answer("".join(events), content="text/event-stream")

    def answer(self, body, status=200, content="application/json"):
        body = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("content-type", content)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Fake:
    """The service while a block runs; its address is what the block gets."""

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
