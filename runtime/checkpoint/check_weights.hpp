// Whether a checkpoint holds the weights of a model: all of them, none that the model would have no use for, and
// numbers.
#pragma once

namespace coterie {

class Checkpoint;
struct ModelSpec;

/// Throws InputError naming file, tensor, found and expected where a tensor is missing or doesn't fit, and where the
/// checkpoint has one in the model's own layers, embedding, last norm or head that the model doesn't use: a config that
/// says less than the weights would compute something else in silence. Likewise where the head is said to be the
/// embedding and another one is stored. Layers past the last one (prediction layers) and other parts are passed over.
void check_weights(const ModelSpec& spec, const Checkpoint& checkpoint);

/// Reads every weight. Throws InputError naming file, tensor and place of the first that is NaN or infinite.
void expect_finite(const ModelSpec& spec, const Checkpoint& checkpoint);

}  // namespace coterie
