// SPDX-License-Identifier: Apache-2.0
#include "cuda_emulation/fault.h"

#include <cxxabi.h>
#include <elf.h>
#include <fmt/core.h>
#include <link.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <vector>

#include "cuda_emulation/block.h"
#include "cuda_emulation/emulator.h"

namespace biqa::emulation {
namespace {

template <typename T>
T read_at(const std::vector<char>& file, std::size_t offset) {
  T value{};
  if (offset + sizeof value <= file.size()) std::memcpy(&value, file.data() + offset, sizeof value);
  return value;
}

/// The mangled name of the function at this offset in the program's file, from its symbol table; "" without one.
std::string symbol_at(std::uint64_t offset) {
  std::ifstream stream("/proc/self/exe", std::ios::binary);
  const std::vector<char> file{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  const auto header = read_at<Elf64_Ehdr>(file, 0);
  for (unsigned s = 0; s < header.e_shnum; ++s) {
    const auto section = read_at<Elf64_Shdr>(file, header.e_shoff + std::size_t{s} * sizeof(Elf64_Shdr));
    if (section.sh_type != SHT_SYMTAB) continue;
    const auto names =
        read_at<Elf64_Shdr>(file, header.e_shoff + std::size_t{section.sh_link} * sizeof(Elf64_Shdr));
    for (std::size_t at = section.sh_offset; at < section.sh_offset + section.sh_size;
         at += sizeof(Elf64_Sym)) {
      const auto symbol = read_at<Elf64_Sym>(file, at);
      if (symbol.st_value == offset && ELF64_ST_TYPE(symbol.st_info) == STT_FUNC)
        return file.data() + names.sh_offset + symbol.st_name;
    }
  }
  return "";
}

/// Where the program is loaded.
std::uint64_t load_address() {
  std::uint64_t address = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t /*size*/, void* result) {
        *static_cast<std::uint64_t*>(result) = info->dlpi_addr;
        return 1;  // the program itself comes first
      },
      &address);
  return address;
}

/// `void f<int>(int, float (*)(int))` without the parameters at its end and the type before its name.
std::string without_types(std::string text) {
  if (!text.empty() && text.back() == ')') {
    int open = 0;
    std::size_t at = text.size();
    do {
      --at;
      open += text[at] == ')' ? 1 : text[at] == '(' ? -1 : 0;
    } while (open > 0 && at > 0);
    text.resize(at);
  }
  return text.rfind("void ", 0) == 0 ? text.substr(std::strlen("void ")) : text;
}

}  // namespace

std::string function_name(const void* function) {
  const std::string symbol = symbol_at(reinterpret_cast<std::uint64_t>(function) - load_address());
  if (symbol.empty()) return fmt::format("{}", function);
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(
      abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, &status), &std::free);
  return status == 0 ? without_types(text.get()) : symbol;
}

void fault(const std::string& what) {
  const std::string place = running_place();
  std::fflush(stdout);
  std::fputs(
      fmt::format("CUDA emulator: {}{} ({})\n", what, place.empty() ? "" : "; " + place, settings_text())
          .c_str(),
      stderr);
  std::abort();
}

}  // namespace biqa::emulation
