"""Keep the weights of frozen networks in 8 or 4 bits.

Only inputs get gradients through a frozen layer, so its small weights are all that the backward pass needs: they are
dequantized where they are used, in the backward pass again, and there is never a dequantized copy of the network.
"""

from neonym.models.quantization.layers import QuantizedConv2d as QuantizedConv2d
from neonym.models.quantization.layers import QuantizedLinear as QuantizedLinear
from neonym.models.quantization.layers import layers_to_quantize as layers_to_quantize
from neonym.models.quantization.layers import quantize as quantize
from neonym.models.quantization.layers import set_quantized as set_quantized
from neonym.models.quantization.schemes import Packed as Packed
from neonym.models.quantization.schemes import pack as pack
from neonym.models.quantization.schemes import scaled_fp8 as scaled_fp8
from neonym.models.quantization.schemes import unpack as unpack
