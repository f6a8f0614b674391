"""The UNet, beside PyTorch's with the same images and the same initial weights; and that it learns and draws."""

import gzip
import re
import zlib

import numpy as np
import pytest

import lazyflow as lf
from tests.examples.lecture.support import copied, program


@pytest.fixture(scope="module")
def slides():
    return program("unet")


def torch_unet(torch, n_classes, n_input_channels):
    """The slides' classes as they stand there, without their dimension 0."""
    nn = torch.nn

    class UNetModule(nn.Module):
        def __init__(self, in_channels, out_channels, mode=None):
            super().__init__()
            self.mode = mode
            self.conv1 = nn.Conv2d(
                in_channels, out_channels, 3, stride=2 if mode == "encoder" else 1, padding=1, bias=False
            )
            self.act1 = nn.ReLU()
            if self.mode == "decoder":
                self.transposed = nn.ConvTranspose2d(
                    out_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=False
                )

        def forward(self, input, lateral_input=None):
            if self.mode == "decoder" and lateral_input is not None:
                input = torch.cat((input, lateral_input), dim=1)
            output = self.act1(self.conv1(input))
            return self.transposed(output) if self.mode == "decoder" else output

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            for i in (1, 2, 3, 4):
                setattr(self, f"encoder{i}", UNetModule(16 if i > 1 else n_input_channels, 16, mode="encoder"))
            for i in (4, 3, 2, 1):
                setattr(self, f"decoder{i}", UNetModule(32 if i < 4 else 16, 16, mode="decoder"))
            self.classifier = nn.Conv2d(16, n_classes, 1, padding=0, bias=False)

        def forward(self, input):
            encoder1_output = self.encoder1(input)
            encoder2_output = self.encoder2(encoder1_output)
            encoder3_output = self.encoder3(encoder2_output)
            decoder4_output = self.decoder4(self.encoder4(encoder3_output))
            decoder3_output = self.decoder3(decoder4_output, encoder3_output)
            decoder2_output = self.decoder2(decoder3_output, encoder2_output)
            return self.classifier(self.decoder1(decoder2_output, encoder1_output))

    return UNet()


@pytest.mark.peer
def test_it_gives_what_pytorch_gives(slides):
    torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")
    images = [slides.Image(np.float64(p), m) for p, m in slides.paste(slides.font_glyphs(), 8, seed=1)]
    assert len({i.mask.shape for i in images}) > 3
    with lf.using(dtype="float64"):
        lf.seed(1)
        ours = slides.UNet(11, 1)
        theirs = copied(ours, torch_unet(torch, 11, 1))
        optimizer = lf.optim.SGD(ours.parameters(), lr=0.5, momentum=0.9)
        found = [loss for _ in range(3) for loss in slides.train(ours, optimizer, images, batch=4)]
        guesses = slides.predict(ours, images)
    peer, expected = torch.optim.SGD(theirs.parameters(), lr=0.5, momentum=0.9), []
    for start in [0, 4] * 3:
        losses = [
            torch.nn.functional.cross_entropy(theirs(torch.tensor(pixels)[None]), torch.tensor(mask)[None])
            for pixels, mask in images[start : start + 4]
        ]
        loss = sum(losses) / len(losses)
        peer.zero_grad()
        loss.backward()
        peer.step()
        expected.append(loss.item())
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    for name, array in ours.state_dict().items():
        np.testing.assert_allclose(array, theirs.state_dict()[name].numpy(), rtol=1e-9, atol=1e-9, err_msg=name)
    for guess, image in zip(guesses, images, strict=True):
        np.testing.assert_array_equal(guess, theirs(torch.tensor(image.pixels)[None]).argmax(1)[0].numpy())


def test_images_of_one_size_share_their_launches(slides):
    model, pixels = slides.UNet(11, 1), np.zeros((1, 16, 32), np.float32)
    total = lf.sum([lf.sum(model(p)) for p in [pixels] * 5 + [np.zeros((1, 32, 16), np.float32)]])
    total.forward()
    launches = [x for run in total.tape.runs for x in run.plan.launches if x.signature.op.name == "conv"]
    assert sorted({len(x.nodes) for x in launches}) == [1, 5]
    assert len(launches) == 2 * 9


def test_it_learns_where_the_ink_is_and_draws_it(slides, tmp_path, capsys):
    slides.main(["--epochs", "10", "--batch", "4", "--images", "64", "--picture", str(tmp_path / "masks.png")])
    overlap = float(re.search(r"intersection over union ([\d.]+)%", capsys.readouterr().out)[1])
    assert overlap > 50
    assert_png(tmp_path / "masks.png")


def assert_png(path):
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and content[-8:-4] == b"IEND"
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
    length = int.from_bytes(content[33:37], "big")
    assert len(zlib.decompress(content[41 : 41 + length])) == height * (1 + 3 * width)


def test_handwritten_digits_are_read_from_a_folder(slides, tmp_path):
    line = ",".join(map(str, [16] * 32 + [0] * 32 + [7])) + "\n"
    (tmp_path / "optdigits.tes").write_text(line * 2)
    (tmp_path / "optdigits.tra.gz").write_bytes(gzip.compress(line.encode()))
    for name, count in (("optdigits.tes", 2), ("optdigits.tra", 1)):
        glyphs = slides.read_digits(tmp_path, name)
        assert len(glyphs) == count and glyphs[0][1] == 7
        assert glyphs[0][0].shape == (16, 16) and glyphs[0][0].mean() == 0.5
    with pytest.raises(SystemExit, match=r"no missing\.tra and no missing\.tra\.gz"):
        slides.read_digits(tmp_path, "missing.tra")


def test_the_mask_is_where_the_digit_was_pasted(slides):
    for image in slides.paste(slides.font_glyphs(), 20, seed=3):
        assert image.pixels.shape == (1, *image.mask.shape)
        assert not any(n % 16 for n in image.mask.shape)
        assert image.mask.max() > 0 and image.pixels[0][image.mask > 0].mean() > 0.5
        assert abs(image.pixels[0][image.mask == 0].mean()) < 0.1
