"""Small LoRAs."""

import torch


def make_lora(model, seed=0, scale=0.2):
    """Return the tensors of a small LoRA for every attention layer, under kohya's names."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    parts = [("lora_unet_", "", model.denoiser, ("to_q", "to_k", "to_v", "to_out.0"))]
    parts.append(
        ("lora_te_", "text_model.", model.text.encoders["text_encoder"], ("q_proj", "k_proj", "v_proj", "out_proj"))
    )
    for start, body, module, endings in parts:
        for name, layer in module.named_modules():
            if name.endswith(endings):
                key = start + (body + name.removeprefix(body)).replace(".", "_")
                tensors[f"{key}.lora_down.weight"] = scale * torch.randn(2, layer.in_features, generator=generator)
                tensors[f"{key}.lora_up.weight"] = scale * torch.randn(layer.out_features, 2, generator=generator)
                tensors[f"{key}.alpha"] = torch.tensor(2.0)
    return tensors
