// A loop marked AF_CLONES is compiled for AVX-512, AVX2 and baseline x86-64; the loader picks one. Without noinline the
// compiler inlines the baseline version into its caller (seen with g++ 12).
#pragma once
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(ATLAS_FAST_NO_CLONES)
#define AF_CLONES __attribute__((noinline, target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define AF_CLONES
#endif
