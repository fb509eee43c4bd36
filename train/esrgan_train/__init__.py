"""Train SRResNet, SRGAN, RRDB-PSNR and ESRGAN, as in their papers and in the official code."""
