"""anomalib's EfficientAD, timed in a process and an environment of its own.

    python -m benchmarks.anomalib_peer --model medium --threads 1

Reads one word per line, `step` or `infer`, runs it once and prints its seconds: processor time with
one thread, else wall time. A step is what anomalib's trainer does: losses with a batch of ImageNet
images, gradients, Adam, schedule. Teacher and images are random numbers, so nothing is downloaded;
logging and reading of images are left out. Only anomalib and PyTorch are imported here.
"""

import argparse
import sys
import time

import torch
from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel, EfficientAdModelSize

# The smallest size that anomalib's autoencoder accepts.
SIZE = 256


class Peer:
    """The model with its optimizer, as `EfficientAd.configure_optimizers` makes it."""

    def __init__(self, model: str) -> None:
        torch.manual_seed(0)
        self.model = EfficientAdModel(model_size=EfficientAdModelSize(model))
        # One image to train on and one that stands for an ImageNet image of the penalty.
        self.images, self.foreign = torch.rand(2, 1, 3, SIZE, SIZE)
        with torch.no_grad():
            # The teacher's statistics, which anomalib measures on the training set.
            features = self.model.teacher(self.images)
            self.model.mean_std["mean"].copy_(features.mean((0, 2, 3), keepdim=True))
            self.model.mean_std["std"].copy_(features.std((0, 2, 3), keepdim=True))
        # Statistics, not weights: anomalib keeps them as parameters.
        for values in (*self.model.mean_std.values(), *self.model.quantiles.values()):
            values.requires_grad_(False)
        # anomalib optimises student and autoencoder together.
        trained = [*self.model.student.parameters(), *self.model.ae.parameters()]
        self.optimizer = torch.optim.Adam(trained, lr=1e-4, weight_decay=1e-5)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 66_500, gamma=0.1)

    def step(self) -> None:
        """One training step."""
        self.model.train()
        loss = sum(self.model(batch=self.images, batch_imagenet=self.foreign))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()

    @torch.inference_mode()
    def infer(self) -> None:
        """Score and map of one image."""
        self.model.eval()
        self.model(self.images)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=("small", "medium"), default="medium")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    # Processor time would add up the seconds of several threads.
    clock = time.process_time if args.threads == 1 else time.perf_counter
    peer = Peer(args.model)
    # The parent process waits for this line: importing and building the model take many seconds.
    print("ready", flush=True)
    for line in sys.stdin:
        call = {"step": peer.step, "infer": peer.infer}[line.strip()]
        started = clock()
        call()
        print(clock() - started, flush=True)


if __name__ == "__main__":
    main()
