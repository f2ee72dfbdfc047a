"""Solutions of tutorial 03: exercise id -> answer."""

import torch


def guide(noise, scale):
    """From the guess without the prompt, scale times the way to the guess with it."""
    without, asked = noise.chunk(2)
    return without + scale * (asked - without)


def latents_up(mode, steps, guided):
    """The two halves of a guided call hold the same latent, so one of them crosses."""
    return steps if mode == "per_step" else 1


def to_int8(values):
    """The nearest of 256 levels between the smallest and the largest value."""
    low = values.min()
    step = (values.max() - low) / 255
    ints = torch.zeros_like(values) if step == 0 else (values - low) / step
    return ints.round().to(torch.uint8), low, step


def from_int8(ints, low, step):
    """The values that the levels stand for."""
    return low + step * ints.float()


def lockstep(denoise, wire, here, there, latent):
    """Both sides step on what crossed, each with its own scheduler."""
    ours = theirs = latent
    for t in here.timesteps:
        noise = wire(denoise(theirs, t))
        ours = here.step(noise, t, ours).prev_sample
        theirs = there.step(noise, t, theirs).prev_sample
    return ours, theirs


def saving(up, steps, values):
    """One byte a value and 8 a tensor instead of 4 a value; what goes up stays as it is."""
    return 1 - (up + steps * (values + 8)) / (up + steps * 4 * values)


def crossing(k, channels, side):
    """Each of the first k down blocks halves the side; what comes down has the next block's channels."""
    area = (side // 2**k) ** 2
    return channels[max(k - 1, 0)] * area, channels[k] * area


def clean(latent, v, alpha_bar):
    """a * latent - b * v = (a * a + b * b) x + (a * b - b * a) e = x."""
    return alpha_bar.sqrt() * latent - (1 - alpha_bar).sqrt() * v


ANSWERS = {
    "03.1": guide,
    "03.2": latents_up,
    "03.3": (to_int8, from_int8),
    "03.4": lockstep,
    "03.5": saving,
    "03.6": crossing,
    "03.7": clean,
}
