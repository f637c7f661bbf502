"""Choice of the device to compute on."""

from heal_tasks.core.errors import InputError


def pick_device(device: str) -> str:
    """Choose the device: ``auto`` becomes ``cuda`` if there is a GPU, else ``cpu``; InputError for no such device."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if gpus else "cpu"
    if device == "cpu":
        return device
    kind, _, index = device.partition(":")
    if kind != "cuda" or (":" in device and not index.isdecimal()):
        raise InputError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:N")
    if int(index or 0) >= gpus:
        raise InputError(f"device {device!r} is not available, torch sees {gpus} GPUs; use auto or cpu")
    return device
