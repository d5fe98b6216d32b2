// Philox 4x32-10 against the known answers of Random123 (kat_vectors), and the CPU kernel that computes many words at a time.
#include "check.h"
#include "core/philox.h"
#include "cpu/kernels.h"

using namespace atlas_fast;

namespace {

struct KnownAnswer {
  uint32_t counter[4], key[2], words[4];
};

const KnownAnswer known_answers[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

uint64_t seed_of(const uint32_t key[2]) { return key[0] | static_cast<uint64_t>(key[1]) << 32; }

void generator_gives_the_known_answers() {
  for (const KnownAnswer& k : known_answers) {
    const Words one = philox(seed_of(k.key), k.counter[0], k.counter[1], k.counter[2], k.counter[3]);
    for (int j = 0; j < 4; ++j) CHECK(one.w[j] == k.words[j]);
  }
}

// random_bits: word e % 4 of counter (e / 4, sample + offset, step, purpose), for any length and any chunks.
void random_bits_follow_the_counter() {
  const Stream stream{0x123456789abcdef0, 7, 3 | 5 << 8};
  const int64_t samples = 9, offset = 1000;
  for (int64_t n : {0, 1, 3, 4, 5, 63, 64, 65, 257}) {
    std::vector<int64_t> whole(samples * n), chunked(samples * n, -1);
    cpu::random_bits(whole.data(), n, stream, offset, 0, samples);
    in_chunks(samples, [&](int64_t b, int64_t e) { cpu::random_bits(chunked.data(), n, stream, offset, b, e); });
    CHECK(same(whole, chunked));
    for (int64_t sample = 0; sample < samples; ++sample)
      for (int64_t e = 0; e < n; ++e) {
        const Words w = philox(stream, static_cast<uint32_t>(e / 4), static_cast<uint32_t>(sample + offset));
        CHECK(whole[sample * n + e] == static_cast<int64_t>(w.w[e % 4]));
      }
  }
}

void uniforms_stay_in_range() {
  CHECK(uniform(0) == 0.0f);
  CHECK(uniform(0xffffffff) == 1.0f - 0x1p-24f);
  CHECK(symmetric_uniform(0) == -1.0f);
  CHECK(symmetric_uniform(0xffffffff) == 1.0f - 0x1p-23f);
  const int64_t n = 1 << 20;
  std::vector<int64_t> words(n);
  cpu::random_bits(words.data(), n, {42, 0, 0}, 0, 0, 1);
  double sum = 0, squares = 0;
  for (int64_t word : words) {
    const uint32_t w = static_cast<uint32_t>(word);
    const double u = uniform(w);
    CHECK(u >= 0 && u < 1);
    CHECK(symmetric_uniform(w) == static_cast<float>(2 * u - 1));
    sum += u;
    squares += u * u;
  }
  CHECK_NEAR(sum / n, 0.5, 5 * std::sqrt(1 / 12.0 / n));  // five standard errors
  CHECK_NEAR(squares / n, 1 / 3.0, 5 * std::sqrt(4 / 45.0 / n));
}

}  // namespace

int main() {
  generator_gives_the_known_answers();
  random_bits_follow_the_counter();
  uniforms_stay_in_range();
  return finish();
}
