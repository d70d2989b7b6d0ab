// `coterie doctor`: what a job would find here, what does not fit, and what to do.
#include "comm/communicator.hpp"
#include "launch/command.hpp"
#include "launch/doctor/facts_json.hpp"
#include "launch/doctor/facts_page.hpp"
#include "launch/given_options.hpp"
#include "launch/on_ranks.hpp"
#include "placement/input_error.hpp"

#include <boost/program_options.hpp>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <sstream>

namespace coterie {
namespace {

namespace po = boost::program_options;

constexpr int kProblems = 1;  // exit code

struct DoctorOptions {
  WantedJob job;
  bool json = false;
  CommOptions comm{.timeout = std::chrono::seconds(60)};
};

po::options_description visible_options() {
  po::options_description all("Options", 80, 46);
  all.add_options()("device", po::value<std::string>()->value_name("KIND")->default_value("auto"),
                    "of the job that is asked about: cpu, cuda or auto")(
      "share-gpu", "of that job too: ranks of a host share its GPUs")("json", "print one JSON object instead of text")(
      "help,h", "this text");
  return all;
}

std::string help() {
  std::ostringstream out;
  out << "usage: [mpirun -n P] coterie doctor [options]\n\n"
         "What a job would find here: MPI, GPUs and their links, driver, CUDA, NCCL,\n"
         "network, memory and limits; what does not fit together, and what to do. Start it\n"
         "as the job is to be started, or alone. Exit code 1: a problem would stop the job.\n\n"
      << visible_options();
  return out.str();
}

/// Nothing: help was asked for.
std::optional<DoctorOptions> parse(std::span<const char* const> arguments) {
  const GivenOptions given("doctor", visible_options(), arguments);
  if (given.has("help")) return std::nullopt;
  DoctorOptions options;
  options.job.device = given.one_of<WantedJob::Device>(
      "device", {{"cpu", WantedJob::Device::cpu}, {"cuda", WantedJob::Device::cuda}, {"auto", WantedJob::Device::any}});
  options.job.share_gpu = given.has("share-gpu");
  if (options.job.share_gpu && options.job.device == WantedJob::Device::cpu) {
    throw InputError(given.label("share-gpu") + ": found --device cpu, expected --device cuda or auto beside it");
  }
  options.json = given.has("json");
  return options;
}

int report(std::span<const RankFacts> ranks, const DoctorOptions& options) {
  const auto findings = diagnose(ranks, options.job);
  if (options.json) {
    const nlohmann::json json{{"findings", findings}, {"ranks", std::vector<RankFacts>(ranks.begin(), ranks.end())}};
    std::cout << json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
  } else {
    std::cout << facts_page(ranks, findings);
  }
  std::cout.flush();
  const bool stops = std::ranges::count(findings, Finding::Weight::problem, &Finding::weight) > 0;
  return stops ? kProblems : kDone;
}

/// Whether MPI would end this process instead of starting.
bool can_not_start(const MpiFacts& mpi) {
  return mpi.launcher == "srun" && mpi.loaded.starts_with("Open MPI") && std::getenv("PMIX_RANK") == nullptr;
}

int doctor_on_ranks(RankFacts mine, const DoctorOptions& options) {
  return on_ranks(options.comm.timeout, [&](MpiSession& session) {
    const auto comm = make_mpi_communicator(session, options.comm);
    const auto nodes = comm->node_of_rank();
    const int node = nodes[comm->rank()];
    mine.mpi.rank = comm->rank();
    mine.mpi.ranks = comm->ranks();
    mine.mpi.node = node;
    mine.mpi.local_rank = static_cast<int>(std::count(nodes.begin(), nodes.begin() + comm->rank(), node));
    mine.mpi.local_ranks = static_cast<int>(std::ranges::count(nodes, node));
    const std::vector<std::uint8_t> packed = nlohmann::json::to_cbor(nlohmann::json(mine));
    std::vector<RankFacts> ranks;
    for (const auto& bytes : comm->all_gather(std::as_bytes(std::span(packed)), {"facts of the ranks"})) {
      const auto* first = reinterpret_cast<const std::uint8_t*>(bytes.data());
      ranks.push_back(nlohmann::json::from_cbor(first, first + bytes.size()).get<RankFacts>());
    }
    // The launcher may end all ranks when one of them has ended with another code than 0.
    return session.rank() == 0 ? report(ranks, options) : int{kDone};
  });
}

int run(std::span<const char* const> arguments) {
  const auto options = parse(arguments);
  if (!options) {
    std::cout << help();
    return kDone;
  }
  RankFacts mine = find_facts();
  if (mine.mpi.launcher.empty() || can_not_start(mine.mpi)) return report(std::span(&mine, 1), *options);
  return doctor_on_ranks(std::move(mine), *options);
}

}  // namespace

const Command kDoctor{"doctor", "what a job would find on this machine, what does not fit, what to do", run};

}  // namespace coterie
