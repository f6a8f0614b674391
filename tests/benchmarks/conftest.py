"""DyNet's library switches denormal numbers off in the thread that loads it: here it is loaded in a thread of its
own, so that no other test of this process computes without them."""

from threading import Thread

from benchmarks import peers


def load():
    peers.find("dynet")


loader = Thread(target=load)
loader.start()
loader.join()
