"""A tiny configuration for every image classifier of transformers: one table, read by the tests of backbones."""

from dataclasses import dataclass
from typing import Any

from transformers import CONFIG_MAPPING

NUM_LABELS = 3


@dataclass(frozen=True)
class Architecture:
    """What the tests know of a type: its tiny configuration, the layer that makes the logits, the width that reads."""

    model_type: str
    head_name: str
    feature_dim: int
    options: dict[str, Any]
    non_negative: bool = False  # features never take negative values

    def config(self, **kwargs):
        return CONFIG_MAPPING[self.model_type](**{"num_labels": NUM_LABELS, **self.options, **kwargs})


# fmt: off
_IMAGE = {"image_size": 32, "patch_size": 16}
_LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_VIT = {**_LAYERS, **_IMAGE, "intermediate_size": 24}
_BEIT = {**_VIT, "layer_scale_init_value": 1.0}
_DINO = {**_LAYERS, **_IMAGE, "mlp_ratio": 2}
_TEXT = {**_LAYERS, "intermediate_size": 24, "vocab_size": 10, "bos_token_id": 0, "eos_token_id": 1}
_CLIP = {"vision_config": _VIT, "text_config": _TEXT}
_SIGLIP2 = {"vision_config": {**_LAYERS, "intermediate_size": 24, "patch_size": 8, "num_patches": 16},
            "text_config": _TEXT}
_SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": 4}
_FOCALNET = {"image_size": 32, "embed_dim": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "focal_levels": [1, 1],
             "focal_windows": [3, 3]}
_HIERA = {"image_size": [32, 32], "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "num_query_pool": 1,
          "masked_unit_size": [4, 4], "masked_unit_attention": [True, False]}
_CONVNEXT = {"image_size": 32, "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
_POOLFORMER = {"num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [8, 16], "patch_sizes": [7, 3],
               "strides": [4, 2], "padding": [2, 1]}
_PVT = {"image_size": 32, "num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [8, 16], "patch_sizes": [4, 2],
        "sequence_reduction_ratios": [2, 1], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2]}
_SEGFORMER = {"num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [8, 16], "patch_sizes": [7, 3],
              "sr_ratios": [2, 1], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2]}
# CvT: the depth of a stage is above its number, which indexes a list of that length.
_CVT = {"patch_sizes": [7, 3, 3], "embed_dim": [8, 8, 16], "num_heads": [1, 1, 2], "depth": [1, 2, 3],
        "mlp_ratio": [2.0, 2.0, 2.0]}
_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
# MobileNet drops 0.999 or 0.8 of its features: a tiny one would have none left.
_MOBILENET = {"image_size": 32, "depth_multiplier": 0.125, "classifier_dropout_prob": 0.0}
_MOBILEVIT = {"image_size": 64, "hidden_sizes": [16, 16, 16], "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 32],
              "num_attention_heads": 2}
_MOBILEVITV2 = {"image_size": 64, "width_multiplier": 0.25, "n_attn_blocks": [1, 1, 1],
                "base_attn_unit_dims": [16, 16, 16]}
_EFFICIENTNET = {"image_size": 32, "width_coefficient": 0.1, "depth_coefficient": 1.0, "hidden_dim": 128,
                 "kernel_sizes": [3, 3], "in_channels": [8, 8], "out_channels": [8, 16], "strides": [1, 2],
                 "num_block_repeats": [1, 1], "expand_ratios": [1, 2]}
_LEVIT = {"image_size": 64, "hidden_sizes": [16, 16, 16], "num_attention_heads": [1, 2, 2], "depths": [1, 1, 1],
          "key_dim": [8, 8, 8]}
_HGNET_V2 = {"embedding_size": 8, "depths": [1, 1], "hidden_sizes": [8, 16], "stem_channels": [3, 8, 8],
             "stage_in_channels": [8, 8], "stage_mid_channels": [8, 8], "stage_out_channels": [8, 16],
             "stage_num_blocks": [1, 1], "stage_downsample": [False, True], "stage_downsample_strides": [2, 2],
             "stage_light_block": [False, True], "stage_kernel_size": [3, 3], "stage_numb_of_layers": [1, 1]}
_TEXTNET = {"image_size": [64, 64], "stem_out_channels": 8, "hidden_sizes": [8, 8, 8, 8, 16],
            "conv_layer_kernel_sizes": [[[3, 3]]] * 4, "conv_layer_strides": [[2]] * 4}
_PERCEIVER = {"image_size": 8, "num_latents": 4, "d_latents": 16, "d_model": 16, "num_self_attends_per_block": 1,
              "num_self_attention_heads": 1, "num_cross_attention_heads": 1}

_TABLE = (
    # model_type, the layer that makes the logits, the width it reads, tiny options, features >= 0
    Architecture("vit", "classifier", 16, _VIT),
    Architecture("vit_msn", "classifier", 16, _VIT),
    Architecture("ijepa", "classifier", 16, _VIT),
    Architecture("deit", "classifier", 16, _VIT),
    Architecture("beit", "classifier", 16, {**_BEIT, "use_relative_position_bias": True}),
    Architecture("data2vec-vision", "classifier", 16, {**_BEIT, "use_shared_relative_position_bias": True}),
    Architecture("clip", "classifier", 16, _CLIP),
    Architecture("metaclip_2", "classifier", 16, _CLIP),
    Architecture("siglip", "classifier", 16, _CLIP),
    Architecture("siglip2", "classifier", 16, _SIGLIP2),
    Architecture("dinov2", "classifier", 32, _DINO),  # the CLS token and the mean patch
    Architecture("dinov2_with_registers", "classifier", 32, _DINO),
    Architecture("swin", "classifier", 16, _SWIN),
    Architecture("swinv2", "classifier", 16, _SWIN),
    Architecture("donut-swin", "classifier", 16, _SWIN),
    Architecture("focalnet", "classifier", 16, _FOCALNET),
    Architecture("hiera", "classifier", 16, _HIERA),
    Architecture("convnext", "classifier", 16, _CONVNEXT),
    Architecture("convnextv2", "classifier", 16, _CONVNEXT),
    Architecture("poolformer", "classifier", 16, _POOLFORMER),
    Architecture("pvt", "classifier", 16, _PVT),
    Architecture("pvt_v2", "classifier", 16, {**_SEGFORMER, "image_size": 32}),
    Architecture("cvt", "classifier", 16, _CVT),
    Architecture("segformer", "classifier", 16, _SEGFORMER),
    Architecture("resnet", "classifier.1", 16, {**_RESNET, "layer_type": "basic"}, non_negative=True),
    Architecture("regnet", "classifier.1", 16, {**_RESNET, "groups_width": 8}, non_negative=True),
    Architecture("bit", "classifier.1", 16, {**_RESNET, "num_groups": 2}, non_negative=True),
    Architecture("mobilenet_v1", "classifier", 128, _MOBILENET, non_negative=True),
    Architecture("mobilenet_v2", "classifier", 1280, _MOBILENET, non_negative=True),
    Architecture("mobilevit", "classifier", 32, _MOBILEVIT),
    Architecture("mobilevitv2", "classifier", 128, _MOBILEVITV2),
    Architecture("efficientnet", "classifier", 128, _EFFICIENTNET),
    Architecture("levit", "classifier.linear", 16, _LEVIT),
    Architecture("hgnet_v2", "fc", 16, _HGNET_V2, non_negative=True),
    Architecture("textnet", "fc", 16, _TEXTNET, non_negative=True),
    Architecture("perceiver", "perceiver.decoder.decoder.final_layer", 16, _PERCEIVER),
)
# fmt: on
SUPPORTED = {row.model_type: row for row in _TABLE}
