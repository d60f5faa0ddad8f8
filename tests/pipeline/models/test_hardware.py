"""What the system says of GPU and CPU agrees with what PyTorch finds."""

from pipeline.models import device, hardware


def test_the_system_and_pytorch_agree_on_this_machine():
    assert hardware.multiplies_bf16() == device.multiplies_bf16()
    assert bool(hardware.nvidia_gpus()) or device.choose().device.type == "cpu"


def test_gpus_are_named_by_their_driver(tmp_path):
    for address, name in (("0000:01:00.0", "NVIDIA H200"), ("0000:02:00.0", "NVIDIA L4")):
        folder = tmp_path / "gpus" / address
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 12\n")
    found = hardware.nvidia_gpus(tmp_path / "gpus", tmp_path / "dev")
    assert found == ("NVIDIA H200", "NVIDIA L4")


def test_gpus_of_a_container_are_seen_by_their_devices(tmp_path):
    for name in ("nvidia0", "nvidiactl", "null"):
        (tmp_path / name).touch()
    assert hardware.nvidia_gpus(tmp_path / "gpus", tmp_path) == ("NVIDIA GPU",)


def test_bfloat16_is_a_flag_of_the_processor(tmp_path):
    for flags, expected in (("sse avx512_bf16", True), ("sse amx_tile", True), ("sse avx2", False)):
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor : 0\nflags\t\t: {flags}\n")
        assert hardware.multiplies_bf16(path) is expected
    assert not hardware.multiplies_bf16(tmp_path / "missing")
