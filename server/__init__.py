"""HTTP, offsets, locks and bytes on disk. Must not know what an image, a registry or a step is."""
