"""The objective in a loop of one's own: any nn.Module, any optimiser.

    python examples/own_loop.py [STEPS]
"""

import sys

import torch

import atlas_fast as af

data = af.data.load("digits")  # images [N,1,8,8] in [0,1], int64 labels [N]
images, labels = data.train_images, data.train_labels
torch.manual_seed(0)
model = af.models.small_cnn(num_classes=10, in_channels=1, image_size=8)
objective = af.objectives.atlas(eps=0.1, alpha=1e-3, beta=1.0, steps=1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
for i in range(count):
    ramp = min(1.0, 2 * (i + 1) / count)  # eps, step size, alpha and beta rise over the first half
    batch = torch.randint(len(images), (32,))
    loss = objective(model, images[batch], labels[batch], ramp)  # crafts x', adds the terms (objective.terms)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
report = af.evaluate(model.eval(), data.test_images[:100], data.test_labels[:100], attacks=["pgd-20"], eps=0.1)
print(f"loss {loss:.3f}, clean {report['clean_accuracy']:.0%}, "
      f"PGD-20 {report['attacks']['pgd-20']['robust_accuracy']:.0%} of 100 test images")
