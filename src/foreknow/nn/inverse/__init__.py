"""Inverse problems: operators, solvers and denoisers that several systems share, in the shapes that deepinv uses."""

from foreknow.nn.inverse.denoisers import DnCNN, PatchAverage, TotalVariation, total_variation
from foreknow.nn.inverse.physics import (
    Blur,
    CompressedSensing,
    Denoising,
    FastCompressedSensing,
    GaussianNoise,
    Inpainting,
    Physics,
    Tomography,
    conjugate_gradients,
    gaussian_kernel,
)
from foreknow.nn.inverse.quality import psnr, ssim
from foreknow.nn.inverse.solvers import SOLVERS, Certificate, admm, as_denoiser, hqs, largest_slope, pgd

__all__ = [
    "SOLVERS",
    "Blur",
    "Certificate",
    "CompressedSensing",
    "Denoising",
    "DnCNN",
    "FastCompressedSensing",
    "GaussianNoise",
    "Inpainting",
    "PatchAverage",
    "Physics",
    "Tomography",
    "TotalVariation",
    "admm",
    "as_denoiser",
    "conjugate_gradients",
    "gaussian_kernel",
    "hqs",
    "largest_slope",
    "pgd",
    "psnr",
    "ssim",
    "total_variation",
]
