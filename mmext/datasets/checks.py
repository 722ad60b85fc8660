"""Checks of the arguments that transforms and samplers share."""


def checked_size(size: tuple[int, int], name: str) -> tuple[int, int]:
    """Return size as whole numbers, or raise ValueError if it is no (width, height) in pixels."""
    if len(size) != 2 or any(side < 1 or side != int(side) for side in size):
        raise ValueError(f'got {name}={size}; expected (width, height) in whole pixels')
    return int(size[0]), int(size[1])


def checked_range(bounds: tuple[float, float], name: str) -> tuple[float, float]:
    """Return bounds, or raise ValueError if they are not 0 < low <= high."""
    if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
        raise ValueError(f'got {name}={bounds}; expected (low, high) with 0 < low <= high')
    return float(bounds[0]), float(bounds[1])


def checked_fraction(value: float, name: str) -> float:
    """Return a probability or share, or raise ValueError if it lies outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f'got {name}={value}; expected a number in [0, 1]')
    return value
