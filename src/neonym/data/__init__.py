"""Turn folders of images into training batches: records, captions, buckets, the plan, the latent cache, the loader."""
