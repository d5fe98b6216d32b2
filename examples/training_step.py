"""A whole step by the fastest valid engine: augmentation, adversary, loss, gradients and optimiser in one call.

    python examples/training_step.py [STEPS]
"""

import sys

import torch

import atlas_fast as af

device = "cuda" if torch.cuda.is_available() else "cpu"
data = af.data.load("digits")
images, labels = data.train_images[:].to(device), data.train_labels.to(device)  # in [0,1], or uint8
torch.manual_seed(0)
model = af.models.small_cnn(num_classes=10, in_channels=1, image_size=8).to(device)
objective = af.objectives.atlas(eps=0.1, alpha=1e-3, beta=1.0, steps=1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=device == "cuda")
step = af.TrainingStep(model, objective, optimizer, seed=0)
count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
for i in range(count):
    step.ramp = min(1.0, 2 * (i + 1) / count)  # eps, step size, alpha and beta rise over the first half
    batch = torch.randint(len(images), (32,), device=device)
    terms = step(images[batch], labels[batch])  # scalars on the device, valid until the next call
print(f"engine {step.engine}; " + ", ".join(f"{name} {float(value):.3f}" for name, value in terms.items()))
