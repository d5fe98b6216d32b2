// torch 2.11's copy of pybind11 is an error where TORCH_TARGET_VERSION is defined, although csrc/module.cpp, which alone
// includes it, knows nothing of torch. This folder comes before torch's on the include path and hides the macro.
#pragma once
#pragma push_macro("TORCH_TARGET_VERSION")
#undef TORCH_TARGET_VERSION
#include_next <pybind11/numpy.h>
#pragma pop_macro("TORCH_TARGET_VERSION")
