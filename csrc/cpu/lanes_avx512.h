// Sixteen floats in a register of AVX-512. Included inside of a namespace and a target region: see
// winograd_convolution.cpp.

struct Lanes {
  static constexpr const char* name = "AVX-512";
  static constexpr int count = 16, rows = 14, weight_rows = 8;
  __m512 v;
  static AF_INLINE Lanes load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static AF_INLINE Lanes load(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(mask(n), p)}; }
  static AF_INLINE Lanes all(float x) { return {_mm512_set1_ps(x)}; }
  AF_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  AF_INLINE void store(float* p, int64_t n) const { _mm512_mask_storeu_ps(p, mask(n), v); }
  static AF_INLINE __mmask16 mask(int64_t n) { return n >= count ? 0xFFFF : static_cast<__mmask16>((1u << n) - 1); }
};
AF_INLINE Lanes operator+(Lanes a, Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
AF_INLINE Lanes operator-(Lanes a, Lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
AF_INLINE Lanes operator*(float a, Lanes b) { return {_mm512_mul_ps(_mm512_set1_ps(a), b.v)}; }
// a b + c
AF_INLINE Lanes fma(Lanes a, Lanes b, Lanes c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

AF_INLINE void transpose(Lanes* r) {
  __m512 t[16], u[16];
  AF_UNROLL
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i].v, r[i + 1].v);
    t[i + 1] = _mm512_unpackhi_ps(r[i].v, r[i + 1].v);
  }
  AF_UNROLL
  for (int i = 0; i < 16; i += 4) {
    u[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xEE);
    u[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
  }
  AF_UNROLL
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_f32x4(u[i], u[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(u[i], u[i + 4], 0xDD);
    t[i + 8] = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0xDD);
  }
  AF_UNROLL
  for (int i = 0; i < 4; ++i) {
    r[i].v = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    r[i + 4].v = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 8].v = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xDD);
    r[i + 12].v = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xDD);
  }
}
