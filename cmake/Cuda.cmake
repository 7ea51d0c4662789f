# The CUDA side of the layers; included with BIQA_CUDA only. No device is needed to build.
set(BIQA_CUDA_ARCHITECTURES "" CACHE STRING "GPU architectures to compile for, such as 80;90 (unless set: all from 80 on that nvcc knows)")
set(CMAKE_CUDA_ARCHITECTURES OFF)  # set per target, once nvcc's version is known
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.4)
  message(FATAL_ERROR "CUDA ${CMAKE_CUDA_COMPILER_VERSION} is too old: biqa needs 12.4 or later")
endif()
# nvcc may need an older g++ than the rest of the build (Debian 13: g++ 13 for CUDA 12.4, g++ 14 for all else). The newer one
# links, with its own directories only.
list(FILTER CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES EXCLUDE REGEX "/gcc/")
set(architectures ${BIQA_CUDA_ARCHITECTURES})
if(NOT architectures)
  set(architectures 80 86 89 90)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
    list(APPEND architectures 100 120)
  endif()
endif()
foreach(architecture ${architectures})
  if(NOT architecture MATCHES "^[0-9]+[af]?$" OR architecture LESS 80)
    message(FATAL_ERROR "BIQA_CUDA_ARCHITECTURES: ${architecture} is not supported; biqa needs compute capability 8.0 or later (sm_75 has no bf16 on tensor cores)")
  endif()
endforeach()
set(CMAKE_CUDA_ARCHITECTURES ${architectures})
# CMake 3.25 does not know how nvcc 13 is told the standard.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
endif()
find_package(CUDAToolkit REQUIRED)
find_package(CUDNN REQUIRED)
find_package(NCCL 2.14 REQUIRED)
# What ptxas says of an object's kernels lies beside it: docs/cuda-resources.md is checked against that.
set(CMAKE_CUDA_COMPILER_LAUNCHER bash ${PROJECT_SOURCE_DIR}/cmake/keep_ptxas_output.sh ${CMAKE_CUDA_COMPILER_LAUNCHER})

# biqa_cuda_target(target layer): what the layer's cuda/ and nccl/ folders need. A contraction of a*b+c that the compiler may
# or may not make would break bitwise agreement between kernels; one that is wanted is written as fmaf.
function(biqa_cuda_target target layer)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-fmad=false -Xptxas=-v -Xcompiler=-Wall,-Wextra,-Wshadow>
    $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${BIQA_WERROR}>>:-Werror=all-warnings>)
  if(layer STREQUAL "tensor")
    target_link_libraries(${target} PUBLIC CUDA::cudart)
    # So that an error can say what the program has code for.
    list(JOIN CMAKE_CUDA_ARCHITECTURES " " built)
    set_property(SOURCE ${PROJECT_SOURCE_DIR}/src/tensor/cuda/runtime.cpp APPEND PROPERTY
      COMPILE_DEFINITIONS "BIQA_BUILT_ARCHITECTURES=\"${built}\"")
  elseif(layer STREQUAL "ops")
    target_link_libraries(${target} PRIVATE CUDA::cublasLt CUDNN::cudnn)
  elseif(layer STREQUAL "comm")
    target_link_libraries(${target} PRIVATE NCCL::nccl)
  endif()
endfunction()
