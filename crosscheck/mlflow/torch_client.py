"""PyTorch with autologging against `kilter tracking`: a training by Lightning is followed epoch by epoch, its checkpoints and model come back and answer alike.

By the 2.x line of MLflow's client, because the newest wants a PyTorch (2.5) that there is for x86 only with gigabytes for graphics cards.
"""

import sys
import tempfile

from server import Server  # Before the client, which reads its settings at once.

import mlflow
import numpy
import pytorch_lightning
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 4
SIGNATURE = ModelSignature(*(Schema([TensorSpec(numpy.dtype("float32"), (-1, width))]) for width in (3, 1)))


class Line(pytorch_lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, inputs):
        return self.layer(inputs)

    def loss(self, name, batch):
        inputs, label = batch
        loss = torch.nn.functional.mse_loss(self(inputs), label)
        self.log(name, loss, on_step=False, on_epoch=True)
        return loss

    def training_step(self, batch, _):
        return self.loss("loss", batch)

    def validation_step(self, batch, _):
        self.loss("val_loss", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5)


def rows():
    torch.manual_seed(7)
    inputs = torch.randn(256, 3)
    return inputs, 2 * inputs[:, :1] - inputs[:, 1:2] + 0.5


def learning(client):
    mlflow.set_experiment("torch")
    inputs, label = rows()
    batches = DataLoader(TensorDataset(inputs, label), batch_size=32)
    mlflow.pytorch.autolog(registered_model_name="line", checkpoint_save_best_only=False, checkpoint_monitor="val_loss")
    module = Line()
    settings = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with mlflow.start_run() as run:
        pytorch_lightning.Trainer(max_epochs=EPOCHS, **settings).fit(module, batches, batches)
    mlflow.pytorch.autolog(disable=True)
    id = run.info.run_id
    params = client.get_run(id).data.params
    want = {"epochs": str(EPOCHS), "optimizer_name": "SGD", "lr": "0.1", "momentum": "0.5"}
    assert {name: params.get(name) for name in want} == want, params
    for name in ("loss", "val_loss"):
        points = client.get_metric_history(id, name)
        values = [point.value for point in points]
        assert [point.step for point in points] == list(range(EPOCHS)) and values == sorted(values, reverse=True), points
    assert {"model", "model_summary.txt", "checkpoints"} <= {file.path for file in client.list_artifacts(id)}
    with torch.no_grad():
        expected = module(inputs)
        for name in ("models:/line/1", f"runs:/{id}/model"):
            assert torch.equal(mlflow.pytorch.load_model(name)(inputs), expected), name
        answers = mlflow.pyfunc.load_model("models:/line/1").predict(inputs.numpy())
        assert (answers == expected.numpy()).all()
        last = mlflow.pytorch.load_checkpoint(Line, id, epoch=EPOCHS - 1)
        assert torch.equal(last(inputs), expected), "the last checkpoint is what was learned"
        first = mlflow.pytorch.load_checkpoint(Line, id, epoch=0)
        assert not torch.equal(first(inputs), expected)


def plain(client):
    inputs, _ = rows()
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    with mlflow.start_run() as run:
        made = mlflow.pytorch.log_model(module, "model", pip_requirements=[], signature=SIGNATURE)
        mlflow.pytorch.log_state_dict(module.state_dict(), "state")
    with torch.no_grad():
        assert torch.equal(mlflow.pytorch.load_model(made.model_uri)(inputs), module(inputs))
    state = mlflow.pytorch.load_state_dict(f"runs:/{run.info.run_id}/state")
    assert {name: value.tolist() for name, value in state.items()} == {name: value.tolist() for name, value in module.state_dict().items()}
    assert mlflow.models.get_model_info(made.model_uri).signature == SIGNATURE


def main():
    with tempfile.TemporaryDirectory() as folder, Server(sys.argv[1], folder) as server:
        mlflow.set_tracking_uri(server.url)
        client = mlflow.MlflowClient()
        for check in (learning, plain):
            check(client)
            print(f"ok    PyTorch {torch.__version__}, {check.__name__}, by {mlflow.__version__}", flush=True)


main()
