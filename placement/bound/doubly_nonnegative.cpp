#include "placement/bound/doubly_nonnegative.hpp"

#include "placement/bound/degree_prices.hpp"
#include "placement/bound/spectral_projection.hpp"
#include "placement/bound/triangle_cuts.hpp"
#include "placement/parallel.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace coterie {
namespace {

constexpr int kFirstTriangles = 20;    // iterations before the first search for triangles
constexpr int kSearch = 10;            // iterations between two searches
constexpr double kBroken = 0.02;       // triangles are broken by more than this
constexpr int kTrianglesPerItem = 25;  // found in one search, at most, for each item of a block
constexpr int kIdle = 60;              // iterations after which a triangle without price is dropped
constexpr int kAdapt = 50;             // iterations between two changes of the step
constexpr double kFactor = 1.5;        // of such a change

constexpr double kWorthThreads = 1e6;  // steps of an iteration: below, starting threads takes longer

double largest(const std::vector<std::vector<double>>& weights) {
  double most = 0;
  for (const auto& layer : weights)
    for (const double w : layer) most = std::max(most, std::abs(w));
  return most;
}

// The centred part of a block's matrix, as a matrix without the directions that centring takes away. A reflection turns
// each layer's direction of equal entries into its first axis, which is left out.
class Centred {
 public:
  Centred(int items, int span) : items_(items), span_(span), mirror_(items, 1 / std::sqrt(items)) {
    mirror_[0] -= 1;
    const double norm = std::sqrt(std::inner_product(mirror_.begin(), mirror_.end(), mirror_.begin(), 0.0));
    for (double& v : mirror_) v /= norm > 0 ? norm : 1;
  }

  [[nodiscard]] int size() const { return (items_ - 1) * span_; }

  [[nodiscard]] std::vector<double> reduce(std::vector<double> matrix) const {
    reflect(matrix);
    std::vector<double> small(static_cast<std::size_t>(size()) * size());
    copy(matrix, small, [](double& full, double& part) { part = full; });
    return small;
  }
  [[nodiscard]] std::vector<double> expand(std::vector<double> small) const {
    const std::size_t full = static_cast<std::size_t>(items_) * span_;
    std::vector<double> matrix(full * full, 0);
    copy(matrix, small, [](double& to, double& part) { to = part; });
    reflect(matrix);
    return matrix;
  }

 private:
  template <typename Visit>
  void copy(std::vector<double>& matrix, std::vector<double>& small, Visit visit) const {
    const std::size_t full = static_cast<std::size_t>(items_) * span_;
    std::size_t at = 0;
    for (std::size_t i = 0; i < full; ++i)
      for (std::size_t j = 0; j < full; ++j)
        if (i % items_ != 0 && j % items_ != 0) visit(matrix[i * full + j], small[at++]);
  }

  // Mirrors rows and columns of each pair of layers.
  void reflect(std::vector<double>& matrix) const {
    const std::size_t size = static_cast<std::size_t>(items_) * span_;
    std::vector<double> rows(items_), columns(items_);
    for (int a = 0; a < span_; ++a)
      for (int b = 0; b < span_; ++b) {
        double* part = matrix.data() + size * a * items_ + static_cast<std::size_t>(b) * items_;
        std::fill(columns.begin(), columns.end(), 0.0);
        double both = 0;
        for (int i = 0; i < items_; ++i) {
          rows[i] = std::inner_product(mirror_.begin(), mirror_.end(), part + i * size, 0.0);
          for (int j = 0; j < items_; ++j) columns[j] += mirror_[i] * part[i * size + j];
          both += mirror_[i] * rows[i];
        }
        for (int i = 0; i < items_; ++i)
          for (int j = 0; j < items_; ++j)
            part[i * size + j] +=
                4 * both * mirror_[i] * mirror_[j] - 2 * rows[i] * mirror_[j] - 2 * mirror_[i] * columns[j];
      }
  }

  int items_, span_;
  std::vector<double> mirror_;  // (items)
};

}  // namespace

DoublyNonnegative::DoublyNonnegative(const Relaxation& relaxation, int threads,
                                     const std::vector<std::vector<int>>& parts)
    : relaxation_(relaxation),
      threads_(threads),
      size_(relaxation.items() * relaxation.span()),
      blocks_(relaxation.blocks()),
      moved_(relaxation.layers),
      best_bound_(std::numeric_limits<double>::infinity()) {
  if (static_cast<double>(size_) * size_ * size_ * relaxation.blocks() < kWorthThreads) threads_ = 1;
  scale_ = std::max(largest(relaxation.between), largest(relaxation.within));
  if (scale_ <= 0) scale_ = 1;
  const auto square = static_cast<std::size_t>(relaxation.items()) * relaxation.items();
  const std::size_t entries = (relaxation.layers + relaxation.between.size()) * square;
  shared_.assign(entries, 1.0 / relaxation.parts);
  unlimited_.assign(entries, 0);
  priced_.assign(entries, 0);
  if (!parts.empty()) start_at(parts);
  for (std::size_t e = 0; e < entries; ++e) shared_[e] = limited(e, shared_[e]);
  for (int l = 0; l < relaxation.layers; ++l)
    for (int i = 0; i < relaxation.items(); ++i) shared_[l * square + (relaxation.items() + std::size_t{1}) * i] = 1;
  if (!relaxation.load.empty()) load_price_.assign(relaxation.layers, std::vector<double>(relaxation.items(), 0));
  const std::size_t triangle = static_cast<std::size_t>(size_) * (size_ + 1) / 2;
  for (DualValues* dual : {&current_, &best_}) dual->matrix.assign(blocks_.size(), std::vector<float>(triangle));
  parallel_for(threads_, blocks_.size(), [&](std::size_t b) { start_block(static_cast<int>(b)); });
  look_at_bound();
}

void DoublyNonnegative::start_at(const std::vector<std::vector<int>>& parts) {
  const int n = relaxation_.items();
  std::size_t at = 0;
  for (int l = 0; l < relaxation_.layers; ++l)
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) shared_[at++] = parts[l][i] == parts[l][j] ? 1 : 0;
  for (int l = 0; l + 1 < relaxation_.layers && relaxation_.coupled(); ++l)
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) shared_[at++] = parts[l][i] == parts[l + 1][j] ? 1 : 0;
}

/// Prices of the linear relaxation: constant along rows or columns, so that the eigenvalues' part of the bound is 0.
void DoublyNonnegative::start_block(int b) {
  const int n = relaxation_.items();
  const auto size = static_cast<std::size_t>(size_);
  std::vector<double> prices(size * size, 0);
  if (relaxation_.coupled()) {
    const DegreePrices price = degree_prices(relaxation_.between[b], n, relaxation_.capacity);
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j)
        prices[i * size + n + j] = prices[(n + j) * size + i] = (price.row[i] + price.column[j]) / 2;
  } else if (!relaxation_.within.empty()) {
    const std::vector<double> price = degree_prices_within(relaxation_.within[b], n, relaxation_.capacity);
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) prices[i * size + j] = (price[i] + price[j]) / 2;
  }
  std::vector<double>& sum = blocks_[b].sum;
  load_block(b, sum);
  for (std::size_t e = 0; e < sum.size(); ++e) sum[e] -= prices[e] / (step_ * scale_);
  keep_prices(b);
}

/// The block's prices as dual values.
void DoublyNonnegative::keep_prices(int b) {
  const auto size = static_cast<std::size_t>(size_);
  std::vector<double> shared;
  load_block(b, shared);
  std::size_t at = 0;
  for (std::size_t i = 0; i < size; ++i)
    for (std::size_t j = i; j < size; ++j, ++at)
      current_.matrix[b][at] =
          static_cast<float>(-step_ * scale_ * (blocks_[b].sum[i * size + j] - shared[i * size + j]));
}

std::span<const double> DoublyNonnegative::within(int layer) const {
  const auto square = static_cast<std::size_t>(relaxation_.items()) * relaxation_.items();
  return std::span(shared_).subspan(layer * square, square);
}

std::span<const double> DoublyNonnegative::between(int layer) const {
  return within(relaxation_.layers + layer);
}

void DoublyNonnegative::forget_bound() noexcept {
  best_bound_ = std::numeric_limits<double>::infinity();
}

void DoublyNonnegative::iterate(bool look) {
  const std::size_t blocks = blocks_.size();
  parallel_for(threads_, blocks, [&](std::size_t b) { project(static_cast<int>(b), look); });
  if (look) look_at_bound();
  parallel_for(threads_, relaxation_.layers, [&](std::size_t l) {
    maximise(static_cast<int>(l));
    if (!load_price_.empty()) hold_load(static_cast<int>(l));
  });
  const bool search = iterations_ >= kFirstTriangles && iterations_ % kSearch == 0;
  // Neighbouring blocks share a layer: first the even ones, then the odd ones.
  for (std::size_t first = 0; first < 2; ++first)
    parallel_for(threads_, (blocks + 1 - first) / 2, [&](std::size_t half) {
      const int block = static_cast<int>(2 * half + first);
      hold_triangles(block);
    });
  if (search) parallel_for(threads_, blocks, [&](std::size_t b) { find_triangles(static_cast<int>(b)); });
  ++iterations_;
  if (iterations_ % kAdapt == 0) adapt();
}

/// Where S(i, j) of a block lies.
std::size_t DoublyNonnegative::entry(int block, int i, int j) const {
  const int n = relaxation_.items();
  const auto square = static_cast<std::size_t>(n) * n;
  if (i > j) std::swap(i, j);
  if (j < n) return block * square + static_cast<std::size_t>(i) * n + j;
  if (i < n) return (relaxation_.layers + block) * square + static_cast<std::size_t>(i) * n + j - n;
  return (block + 1) * square + static_cast<std::size_t>(i - n) * n + j - n;
}

/// One over how often an entry stands in the blocks' matrices.
double DoublyNonnegative::inverse_copies(std::size_t entry) const {
  const auto square = static_cast<std::size_t>(relaxation_.items()) * relaxation_.items();
  const std::size_t layer = entry / square;
  return layer < static_cast<std::size_t>(relaxation_.layers) && relaxation_.copies(static_cast<int>(layer)) == 2 ? 0.25
                                                                                                                  : 0.5;
}

double DoublyNonnegative::limited(std::size_t entry, double value) const {
  const auto square = static_cast<std::size_t>(relaxation_.items()) * relaxation_.items();
  const std::size_t layer = entry / square;
  const bool inside = layer < static_cast<std::size_t>(relaxation_.layers);
  switch (inside ? relaxation_.share[layer][entry % square] : relaxation_.share_between[entry % square]) {
    case Share::never:
      return 0;
    case Share::maybe:
      return std::clamp(value, 0.0, 1.0);
    case Share::always:
      return 1;
  }
  return value;
}

void DoublyNonnegative::load_block(int block, std::vector<double>& shared) const {
  const int n = relaxation_.items();
  const auto size = static_cast<std::size_t>(size_);
  shared.resize(size * size);
  for (int layer = 0; layer < relaxation_.span(); ++layer) {
    const auto inside = within(block + layer);
    double* to = shared.data() + (size + 1) * layer * n;
    for (int i = 0; i < n; ++i)
      for (int j = i; j < n; ++j) to[i * size + j] = to[j * size + i] = inside[i * n + j];
  }
  if (!relaxation_.coupled()) return;
  const auto across = between(block);
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) shared[i * size + n + j] = shared[(n + j) * size + i] = across[i * n + j];
}

/// The nearest matrix with the eigenvalues that a division into parts has: mean part, plus a centred rest.
void DoublyNonnegative::project(int b, bool look) {
  Block& block = blocks_[b];
  const auto size = static_cast<std::size_t>(size_);
  std::vector<double> shared;
  load_block(b, shared);
  // sum = matrix + prices of the iteration before, so prices are sum - shared; what is projected is shared - prices.
  std::vector<double> matrix(size * size);
  for (std::size_t e = 0; e < matrix.size(); ++e) matrix[e] = 2 * shared[e] - block.sum[e];
  const Centred centred(relaxation_.items(), relaxation_.span());
  const double cap = relaxation_.capacity * relaxation_.span();
  std::vector<double> small = centred.reduce(std::move(matrix));
  const double support = project_spectrum(small.data(), centred.size(), cap, relaxation_.parts - 1);
  matrix = centred.expand(std::move(small));
  const double mean = 1.0 / relaxation_.parts;
  block.distance = 0;
  for (std::size_t e = 0; e < matrix.size(); ++e) {
    const double apart = matrix[e] + mean - shared[e];
    block.distance += apart * apart;
    block.sum[e] += apart;
  }
  if (!look) return;
  block.eigenvalues = step_ * scale_ * cap * support;
  keep_prices(b);
}

void DoublyNonnegative::look_at_bound() {
  current_.triangles.assign(blocks_.size(), {});
  for (std::size_t b = 0; b < blocks_.size(); ++b)
    for (const Cut& cut : blocks_[b].cuts) {
      if (cut.price <= 0) continue;
      current_.triangles[b].push_back(cut.triangle);
      current_.triangles[b].back().price = static_cast<float>(cut.price * scale_);
    }
  current_.load_price.clear();
  for (const auto& layer : load_price_) {
    current_.load_price.emplace_back();
    for (const double price : layer) current_.load_price.back().push_back(static_cast<float>(price * scale_));
  }
  double bound = weights_part(relaxation_, current_, threads_).value;
  for (const Block& block : blocks_) bound += block.eigenvalues;
  ++looks_;
  if (bound >= best_bound_) return;
  best_bound_ = bound;
  best_look_ = looks_;
  std::swap(current_, best_);
}

std::string DoublyNonnegative::kind() const {
  if (best_look_ <= 1) return "linear";
  const bool cuts =
      std::any_of(best_.triangles.begin(), best_.triangles.end(), [](const auto& b) { return !b.empty(); });
  return std::string("dnn") + (cuts ? "+triangles" : "") + (relaxation_.load.empty() ? "" : "+load");
}

/// S is best where it is drawn: the mean of what the blocks hold, moved by its weight and held to its limits.
void DoublyNonnegative::maximise(int layer) {
  const int n = relaxation_.items();
  const auto size = static_cast<std::size_t>(size_);
  const std::vector<double>* first = layer < relaxation_.blocks() ? &blocks_[layer].sum : nullptr;
  const std::vector<double>* second = relaxation_.coupled() && layer > 0 ? &blocks_[layer - 1].sum : nullptr;
  double moved = 0;
  const auto pair = [&](std::size_t at, double sum, double weight, double inverse, Share share) {
    const double value = sum + (weight / scale_ - priced_[at]) * inverse / step_;
    const double held = share == Share::maybe ? std::clamp(value, 0.0, 1.0) : share == Share::always ? 1 : 0;
    moved += (held - shared_[at]) * (held - shared_[at]) / inverse;
    unlimited_[at] = value;
    shared_[at] = held;
  };
  const double inverse = inverse_copies(entry(layer, 0, 0));
  for (int i = 0; i < n; ++i)
    for (int j = i + 1; j < n; ++j) {
      double sum = 0;
      if (first) sum += (*first)[i * size + j];
      if (second) sum += (*second)[(n + i) * size + n + j];
      if (first && second) sum /= 2;
      pair(entry(layer, i, j), sum, relaxation_.within.empty() ? 0 : relaxation_.within[layer][i * n + j], inverse,
           relaxation_.share[layer][i * n + j]);
    }
  if (relaxation_.coupled() && first)
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j)
        pair(entry(layer, i, n + j), (*first)[i * size + n + j], relaxation_.between[layer][i * n + j], 0.5,
             relaxation_.share_between[i * n + j]);
  moved_[layer] = moved;
}

/// Takes `price` more off the weight of an entry.
void DoublyNonnegative::move(std::size_t entry, double price) {
  priced_[entry] += price;
  unlimited_[entry] -= price * inverse_copies(entry) / step_;
  shared_[entry] = limited(entry, unlimited_[entry]);
}

/// Raises or lowers each triangle's price until the triangle is just kept (Hildreth's method, one round).
void DoublyNonnegative::hold_triangles(int b) {
  for (Cut& cut : blocks_[b].cuts) {
    const double broken = shared_[cut.entry[0]] + shared_[cut.entry[1]] - shared_[cut.entry[2]] - 1;
    if (broken <= 0 && cut.price <= 0) {
      ++cut.idle;
      continue;
    }
    cut.idle = 0;
    const double curvature = inverse_copies(cut.entry[0]) + inverse_copies(cut.entry[1]) + inverse_copies(cut.entry[2]);
    const double price = std::max(-cut.price, step_ * broken / curvature);
    cut.price += price;
    move(cut.entry[0], price);
    move(cut.entry[1], price);
    move(cut.entry[2], -price);
  }
}

/// The same for the load of each item's part.
void DoublyNonnegative::hold_load(int layer) {
  const int n = relaxation_.items();
  const std::vector<double>& load = relaxation_.load[layer];
  for (int i = 0; i < n; ++i) {
    double over = load[i] - 1;
    double curvature = 0;
    for (int j = 0; j < n; ++j) {
      if (j == i) continue;
      const std::size_t at = entry(layer, i, j);
      over += load[j] * shared_[at];
      curvature += load[j] * load[j] * inverse_copies(at);
    }
    double& price = load_price_[layer][i];
    if ((over <= 0 && price <= 0) || curvature <= 0) continue;
    const double change = std::max(-price, step_ * over / curvature);
    price += change;
    for (int j = 0; j < n; ++j)
      if (j != i) move(entry(layer, i, j), change * load[j]);
  }
}

void DoublyNonnegative::find_triangles(int b) {
  Block& block = blocks_[b];
  const auto key = [](const auto& t) { return std::uint64_t{t.i} << 32 | std::uint64_t{t.j} << 16 | t.q; };
  std::erase_if(block.cuts, [&](const Cut& cut) {
    if (cut.price > 0 || cut.idle <= kIdle) return false;
    block.known.erase(key(cut.triangle));
    return true;
  });
  std::vector<double> shared;
  load_block(b, shared);
  for (const Triangle& t :
       broken_triangles(shared, size_, kBroken, static_cast<std::size_t>(kTrianglesPerItem) * size_)) {
    if (!block.known.insert(key(t)).second) continue;
    block.cuts.push_back({{t.i, t.j, t.q}, {entry(b, t.i, t.j), entry(b, t.i, t.q), entry(b, t.j, t.q)}});
  }
}

/// A longer step where the sides differ too much, a shorter one where S moves too much.
void DoublyNonnegative::adapt() {
  double apart = 0;
  for (const Block& block : blocks_) apart += block.distance;
  double moved = 0;
  for (const double m : moved_) moved += m;
  distance_ = std::sqrt(apart / (static_cast<double>(blocks_.size()) * size_ * size_));
  const double factor = apart > 4 * moved ? kFactor : moved > 4 * apart ? 1 / kFactor : 1;
  if (factor == 1) return;
  step_ *= factor;
  parallel_for(threads_, blocks_.size(), [&](std::size_t b) {
    std::vector<double> shared;
    load_block(static_cast<int>(b), shared);
    for (std::size_t e = 0; e < shared.size(); ++e)
      blocks_[b].sum[e] = shared[e] + (blocks_[b].sum[e] - shared[e]) / factor;
  });
}

}  // namespace coterie
