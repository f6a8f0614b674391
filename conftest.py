"""``--device``: where the tests compute. See docs/testing.md."""

DEVICES = ("cpu", "simulated", "cuda:0")


def pytest_addoption(parser):
    """The option itself."""
    parser.addoption(
        "--device",
        choices=DEVICES,
        default="cpu",
        help="where tests compute: cpu; cuda:0, a GPU with CuPy; simulated, a stand-in for CuPy that needs no GPU",
    )


def pytest_configure(config):
    """The simulator takes CuPy's place before anything asks for it."""
    if config.option.device == "simulated":
        from tests import simcupy

        simcupy.install()
