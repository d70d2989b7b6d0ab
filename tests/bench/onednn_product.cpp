#include "tests/bench/onednn_product.hpp"

#include <dnnl.hpp>
#include <omp.h>

namespace coterie {
namespace {

using dnnl::memory;
using Forward = dnnl::inner_product_forward;

/// One product with blocked weights, and the reorder of its input where types differ.
struct Blocked {
  Blocked(const dnnl::engine& engine, dnnl::stream& stream, memory::data_type type, int rows, int inputs, int outputs,
          const std::vector<float>& weight) {
    const auto f32 = memory::data_type::f32;
    const auto plain = memory::format_tag::ab;
    const Forward::primitive_desc desc(
        {dnnl::prop_kind::forward_inference, memory::desc({rows, inputs}, type, plain),
         memory::desc({outputs, inputs}, type, memory::format_tag::any), memory::desc({rows, outputs}, f32, plain)},
        engine);
    product = Forward(desc);
    memory as_read({{outputs, inputs}, f32, plain}, engine, const_cast<float*>(weight.data()));
    weights = memory(desc.weights_desc(), engine);
    dnnl::reorder(as_read, weights).execute(stream, as_read, weights);
    given = memory({{rows, inputs}, f32, plain}, engine, nullptr);
    source = type == f32 ? given : memory(desc.src_desc(), engine);
    destination = memory(desc.dst_desc(), engine, nullptr);
    if (type != f32) conversion = dnnl::reorder(given, source);
    arguments = {{DNNL_ARG_SRC, source}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, destination}};
    stream.wait();
  }

  void run(dnnl::stream& stream, const float* in, float* out) {
    given.set_data_handle(const_cast<float*>(in));
    destination.set_data_handle(out);
    if (conversion) conversion.execute(stream, given, source);
    product.execute(stream, arguments);
    stream.wait();
  }

  Forward product;
  dnnl::reorder conversion;
  memory weights, given, source, destination;
  std::unordered_map<int, memory> arguments;
};

}  // namespace

struct OneDnnProduct::Primitives {
  Primitives(int n, int k, int m, const std::vector<float>& w)
      : rows(n),
        inputs(k),
        outputs(m),
        weight(w),
        f32(engine, stream, memory::data_type::f32, n, k, m, w),
        bf16(engine, stream, memory::data_type::bf16, n, k, m, w) {}

  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  int rows, inputs, outputs;
  const std::vector<float>& weight;
  Blocked f32;
  Blocked bf16;
};

OneDnnProduct::OneDnnProduct(int rows, int inputs, int outputs, const std::vector<float>& weight) {
  omp_set_num_threads(1);
  primitives_ = std::make_unique<Primitives>(rows, inputs, outputs, weight);
}
OneDnnProduct::~OneDnnProduct() = default;

void OneDnnProduct::packed(const float* in, float* out) {
  primitives_->f32.run(primitives_->stream, in, out);
}
void OneDnnProduct::packed_bf16(const float* in, float* out) {
  primitives_->bf16.run(primitives_->stream, in, out);
}
void OneDnnProduct::plain(const float* in, float* out) {
  const Primitives& p = *primitives_;
  dnnl::sgemm('N', 'T', p.rows, p.outputs, p.inputs, 1.0F, in, p.inputs, p.weight.data(), p.inputs, 0.0F, out,
              p.outputs);
}

}  // namespace coterie
