# Helpers that keep one target per folder of src/, one test program per test file and one program per tool.

add_library(biqa_warnings INTERFACE)
target_compile_options(biqa_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Wcast-qual -Wno-unknown-warning-option -Wno-restrict>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${BIQA_WERROR}>>:-Werror>)
if(BIQA_SANITIZE)
  # Instrumented code defeats the analysis behind this warning: g++ 12 then doubts the standard library.
  add_compile_options(-fsanitize=${BIQA_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -Wno-maybe-uninitialized)
  add_link_options(-fsanitize=${BIQA_SANITIZE})
endif()

# A contraction of a*b+c that the compiler may or may not make would break bitwise agreement between paths.
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)

function(biqa_require_parsed prefix)
  if(${prefix}_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "unknown arguments: ${${prefix}_UNPARSED_ARGUMENTS}")
  endif()
endfunction()

# biqa_layer(name LINK public libraries... PRIVATE private libraries...): every .cpp below src/name. The cuda/ and nccl/
# folders belong to a build with BIQA_CUDA, but for an absent.cpp there, which stands in for them without.
function(biqa_layer name)
  cmake_parse_arguments(A "" "" "LINK;PRIVATE" ${ARGN})
  biqa_require_parsed(A)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${name}/*.cpp ${PROJECT_SOURCE_DIR}/src/${name}/*.cu)
  if(BIQA_CUDA)
    list(FILTER sources EXCLUDE REGEX "/src/${name}/cuda/absent\\.cpp$")
  else()
    set(absent ${sources})
    list(FILTER absent INCLUDE REGEX "/src/${name}/cuda/absent\\.cpp$")
    list(FILTER sources EXCLUDE REGEX "/src/${name}/(cuda|nccl)/")
    list(APPEND sources ${absent})
  endif()
  if(NOT sources)
    add_library(biqa_${name} INTERFACE)
    target_include_directories(biqa_${name} INTERFACE ${PROJECT_SOURCE_DIR}/src)
    target_link_libraries(biqa_${name} INTERFACE ${A_LINK})
    return()
  endif()
  add_library(biqa_${name} STATIC ${sources})
  target_include_directories(biqa_${name} PUBLIC ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(biqa_${name} PUBLIC ${A_LINK} PRIVATE ${A_PRIVATE} biqa_warnings)
  if(BIQA_CUDA)
    biqa_cuda_target(biqa_${name} ${name})
  endif()
endfunction()

# biqa_programs(folder): every folder/NAME.cpp becomes the program biqa_NAME. The target biqa_all_programs builds them all.
add_custom_target(biqa_all_programs)
function(biqa_programs folder)
  file(GLOB mains CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${folder}/*.cpp)
  foreach(main ${mains})
    get_filename_component(name ${main} NAME_WE)
    add_executable(biqa_${name}_program ${main})
    set_target_properties(biqa_${name}_program PROPERTIES OUTPUT_NAME biqa_${name})
    add_dependencies(biqa_all_programs biqa_${name}_program)
    target_link_libraries(biqa_${name}_program PRIVATE biqa_app biqa_warnings)
  endforeach()
endfunction()
