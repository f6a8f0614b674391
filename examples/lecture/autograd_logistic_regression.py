"""Autograd's logistic regression in two slides; only the imports are ours.

python examples/lecture/autograd_logistic_regression.py
"""

import lazyflow.numpy as np
from lazyflow import check_grads, grad


def sigmoid(x):
    """A smooth step from 0 to 1."""
    return 0.5 * (np.tanh(x) + 1)


def logistic_predictions(weights, inputs):
    """Outputs probability of a label being true according to logistic model."""
    return sigmoid(np.dot(inputs, weights))


def training_loss(weights, inputs, targets):
    """Training loss is the negative log-likelihood of the training labels."""
    preds = logistic_predictions(weights, inputs)
    label_probabilities = preds * targets + (1 - preds) * (1 - targets)
    return -np.sum(np.log(label_probabilities))


# Build a toy dataset and weights.
inputs = np.array([[0.52, 1.12, 0.77], [0.88, -1.08, 0.15], [0.52, 0.06, -1.30], [0.74, -2.49, 1.39]])
targets = np.array([True, True, False, True])
weights = np.array([0.0, 0.0, 0.0])

# Build a function that returns gradients of training loss with respect to parameters.
training_gradient_fun = grad(training_loss)

# Check the gradients numerically, just to be safe.
check_grads(training_loss, modes=["rev"])(weights, inputs, targets)

# Optimize weights using gradient descent.
print("Initial loss:", training_loss(weights, inputs, targets))
for _ in range(10):
    weights -= training_gradient_fun(weights, inputs, targets) * 0.01
print("Trained loss:", training_loss(weights, inputs, targets))
