"""What runs a plan: it is loaded, frames are copied in and out, and its weights can change."""
