#include "runtime/text/bpe.hpp"

#include "runtime/text/utf8.hpp"

#include <algorithm>
#include <cstdio>
#include <queue>
#include <stdexcept>
#include <tuple>
#include <utility>

namespace coterie {
namespace {

constexpr std::uint64_t kNoPair = ~std::uint64_t{0};
/// Up to so many symbols, looking at all pairs for each merge is faster than a queue.
constexpr std::size_t kFew = 40;

std::uint64_t pair_of(std::int32_t left, std::int32_t right) noexcept {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

Bpe::Bpe(BpeVocabulary vocabulary, const std::vector<Merge>& merges, BpeOptions options)
    : options_(std::move(options)), vocabulary_(std::move(vocabulary)) {
  for (std::size_t b = 0; b < 256; ++b) {
    of_byte_[b] = find(std::string(1, static_cast<char>(b)));
    std::array<char, 8> name{};
    std::snprintf(name.data(), name.size(), "<0x%02X>", static_cast<unsigned>(b));
    fallback_[b] = options_.byte_fallback ? find(name.data()) : -1;
  }
  const auto need = [&](const std::string& token) {
    const std::int32_t id = find(token);
    if (id < 0) throw std::invalid_argument(token);
    return id;
  };
  if (!options_.unknown.empty()) unknown_ = need(options_.unknown);

  std::size_t slots = 64;
  while (slots < 2 * merges.size()) slots *= 2;
  products_.assign(slots, {kNoPair, 0, 0});
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    const std::uint64_t pair = pair_of(need(merge.left), need(merge.right));
    products_[slot(pair)] = {pair, static_cast<std::int32_t>(rank), need(merge.left + merge.right)};
  }
  std::int32_t ids = 0;
  for (const auto& [token, id] : vocabulary_) ids = std::max(ids, id + 1);
  whole_ = std::make_unique<std::atomic<Whole>[]>(static_cast<std::size_t>(ids));
}

std::int32_t Bpe::find(std::string_view token) const {
  const auto found = vocabulary_.find(token);
  return found == vocabulary_.end() ? -1 : found->second;
}

/// Where `pair` is in the table, or where it would be.
std::size_t Bpe::slot(std::uint64_t pair) const noexcept {
  const std::size_t last = products_.size() - 1;  // a power of two, less one
  std::size_t at = (pair * 0x9E3779B97F4A7C15U >> 20) & last;
  while (products_[at].pair != pair && products_[at].pair != kNoPair) at = (at + 1) & last;
  return at;
}

const Bpe::Product* Bpe::product(std::int32_t left, std::int32_t right) const noexcept {
  const Product& found = products_[slot(pair_of(left, right))];
  return found.pair == kNoPair ? nullptr : &found;
}

/// The symbols with which the merging of `piece` begins.
void Bpe::begin(std::string_view piece, std::vector<std::int32_t>& ids) const {
  bool unknown_waits = false;  // HF puts an unknown token only when the next known one comes, behind fallback bytes
  const auto flush = [&] {
    if (unknown_waits) ids.push_back(unknown_);
    unknown_waits = false;
  };
  while (!piece.empty()) {
    const auto lead = static_cast<unsigned char>(piece.front());
    const std::size_t size = options_.bytes || lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    const std::string_view symbol = piece.substr(0, size);
    piece.remove_prefix(size);
    const std::int32_t id = size == 1 ? of_byte_[lead] : find(symbol);
    const auto fallback = [&](char c) { return fallback_[static_cast<unsigned char>(c)]; };
    if (id >= 0) {
      flush();
      ids.push_back(id);
    } else if (std::all_of(symbol.begin(), symbol.end(), [&](char c) { return fallback(c) >= 0; })) {
      for (const char c : symbol) ids.push_back(fallback(c));
    } else if (unknown_ >= 0) {
      if (!options_.fuse_unknown) flush();
      unknown_waits = true;
    }
  }
  flush();
}

void Bpe::merge_few(std::vector<std::int32_t>& ids, std::size_t first) const {
  std::array<const Product*, kFew> products{};  // of symbol i and the next one
  std::array<std::int32_t, kFew> symbols{};
  std::size_t count = ids.size() - first;
  std::copy(ids.begin() + static_cast<std::ptrdiff_t>(first), ids.end(), symbols.begin());
  for (std::size_t i = 0; i + 1 < count; ++i) products[i] = product(symbols[i], symbols[i + 1]);
  while (true) {
    std::size_t best = count;
    for (std::size_t i = 0; i + 1 < count; ++i) {
      if (products[i] != nullptr && (best == count || products[i]->rank < products[best]->rank)) best = i;
    }
    if (best == count) break;
    symbols[best] = products[best]->id;
    for (std::size_t i = best + 1; i + 1 < count; ++i) {
      symbols[i] = symbols[i + 1];
      products[i] = products[i + 1];
    }
    --count;
    if (best > 0) products[best - 1] = product(symbols[best - 1], symbols[best]);
    products[best] = best + 1 < count ? product(symbols[best], symbols[best + 1]) : nullptr;
  }
  std::copy(symbols.begin(), symbols.begin() + static_cast<std::ptrdiff_t>(count),
            ids.begin() + static_cast<std::ptrdiff_t>(first));
  ids.resize(first + count);
}

void Bpe::merge_many(std::vector<std::int32_t>& ids, std::size_t first) const {
  const auto count = static_cast<std::int32_t>(ids.size() - first);
  std::vector<Symbol> symbols;
  symbols.reserve(static_cast<std::size_t>(count));
  for (std::int32_t i = 0; i < count; ++i) {
    symbols.push_back({ids[first + static_cast<std::size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1});
  }
  const auto at = [&](std::int32_t i) -> Symbol& { return symbols[static_cast<std::size_t>(i)]; };

  using Candidate = std::tuple<std::int32_t, std::int32_t, std::int32_t>;  // rank, left symbol, product
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](std::int32_t left) {
    if (left < 0 || at(left).next < 0) return;
    const Product* found = product(at(left).id, at(at(left).next).id);
    if (found != nullptr) queue.emplace(found->rank, left, found->id);
  };
  for (std::int32_t i = 0; i < count; ++i) consider(i);
  while (!queue.empty()) {
    const auto [rank, left, id] = queue.top();
    queue.pop();
    Symbol& symbol = at(left);
    if (symbol.id < 0 || symbol.next < 0) continue;
    const Product* now = product(symbol.id, at(symbol.next).id);
    if (now == nullptr || now->id != id) continue;  // a neighbour has changed since
    Symbol& gone = at(symbol.next);
    symbol.id = id;
    symbol.next = gone.next;
    gone.id = -1;
    if (symbol.next >= 0) at(symbol.next).before = left;
    consider(symbol.before);
    consider(left);
  }
  ids.resize(first);
  for (std::int32_t i = 0; i >= 0; i = at(i).next) ids.push_back(at(i).id);
}

void Bpe::merge_all(std::string_view piece, std::vector<std::int32_t>& ids) const {
  const std::size_t first = ids.size();
  begin(piece, ids);
  const std::size_t count = ids.size() - first;
  if (count > kFew) {
    merge_many(ids, first);
  } else if (count > 1) {
    merge_few(ids, first);
  }
}

bool Bpe::merges_to_itself(std::string_view piece, std::int32_t id) const {
  std::atomic<Whole>& known = whole_[static_cast<std::size_t>(id)];
  Whole whole = known.load(std::memory_order_relaxed);
  if (whole == unknown) {
    std::vector<std::int32_t> ids;
    merge_all(piece, ids);
    whole = ids.size() == 1 && ids.front() == id ? yes : no;
    known.store(whole, std::memory_order_relaxed);
  }
  return whole == yes;
}

void Bpe::encode(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (piece.empty()) return;
  const std::int32_t id = find(piece);
  if (id >= 0 && (options_.ignore_merges || merges_to_itself(piece, id))) {
    ids.push_back(id);
  } else {
    merge_all(piece, ids);
  }
}

}  // namespace coterie
