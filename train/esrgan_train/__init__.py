"""Train SRResNet, SRGAN, RRDB-PSNR and ESRGAN, as their papers and their official code have it."""
