// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace biqa {

/// The content of assets/lexicon/quality.txt. The build puts it into the program (CMakeLists.txt).
extern const std::string_view kBuiltInLexicon;

}  // namespace biqa
