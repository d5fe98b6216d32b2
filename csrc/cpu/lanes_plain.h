// Four floats for processors without AVX2, in plain C++ for the compiler to make the best of. Included inside of a
// namespace: see winograd_convolution.cpp.

struct Lanes {
  static constexpr const char* name = "plain";
  static constexpr int count = 4, rows = 4, weight_rows = 4;
  float v[count];
  static AF_INLINE Lanes load(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }
  static AF_INLINE Lanes load(const float* p, int64_t n) {
    return {{n > 0 ? p[0] : 0, n > 1 ? p[1] : 0, n > 2 ? p[2] : 0, n > 3 ? p[3] : 0}};
  }
  static AF_INLINE Lanes all(float x) { return {{x, x, x, x}}; }
  AF_INLINE void store(float* p) const { store(p, count); }
  AF_INLINE void store(float* p, int64_t n) const {
    for (int64_t i = 0; i < (n < count ? n : count); ++i) p[i] = v[i];
  }
};
AF_INLINE Lanes operator+(Lanes a, Lanes b) {
  return {{a.v[0] + b.v[0], a.v[1] + b.v[1], a.v[2] + b.v[2], a.v[3] + b.v[3]}};
}
AF_INLINE Lanes operator-(Lanes a, Lanes b) {
  return {{a.v[0] - b.v[0], a.v[1] - b.v[1], a.v[2] - b.v[2], a.v[3] - b.v[3]}};
}
AF_INLINE Lanes operator*(float a, Lanes b) { return {{a * b.v[0], a * b.v[1], a * b.v[2], a * b.v[3]}}; }
// a b + c
AF_INLINE Lanes fma(Lanes a, Lanes b, Lanes c) {
  return {{a.v[0] * b.v[0] + c.v[0], a.v[1] * b.v[1] + c.v[1], a.v[2] * b.v[2] + c.v[2], a.v[3] * b.v[3] + c.v[3]}};
}

AF_INLINE void transpose(Lanes* r) {
  for (int i = 0; i < Lanes::count; ++i)
    for (int j = 0; j < i; ++j) {
      const float x = r[i].v[j];
      r[i].v[j] = r[j].v[i];
      r[j].v[i] = x;
    }
}
