// Eight floats in a register of AVX2. Included inside of a namespace and a target region: see winograd_convolution.cpp.

struct Lanes {
  static constexpr const char* name = "AVX2";
  static constexpr int count = 8, rows = 6, weight_rows = 4;
  __m256 v;
  static AF_INLINE Lanes load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static AF_INLINE Lanes load(const float* p, int64_t n) { return {_mm256_maskload_ps(p, mask(n))}; }
  static AF_INLINE Lanes all(float x) { return {_mm256_set1_ps(x)}; }
  AF_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  AF_INLINE void store(float* p, int64_t n) const { _mm256_maskstore_ps(p, mask(n), v); }
  static AF_INLINE __m256i mask(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n < count ? n : count)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};
AF_INLINE Lanes operator+(Lanes a, Lanes b) { return {_mm256_add_ps(a.v, b.v)}; }
AF_INLINE Lanes operator-(Lanes a, Lanes b) { return {_mm256_sub_ps(a.v, b.v)}; }
AF_INLINE Lanes operator*(float a, Lanes b) { return {_mm256_mul_ps(_mm256_set1_ps(a), b.v)}; }
// a b + c
AF_INLINE Lanes fma(Lanes a, Lanes b, Lanes c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }

AF_INLINE void transpose(Lanes* r) {
  __m256 t[8], u[8];
  AF_UNROLL
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i].v, r[i + 1].v);
    t[i + 1] = _mm256_unpackhi_ps(r[i].v, r[i + 1].v);
  }
  AF_UNROLL
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
    u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
  }
  AF_UNROLL
  for (int i = 0; i < 4; ++i) {
    r[i].v = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    r[i + 4].v = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}
