# The CUDA side of the layers; included with BIQA_CUDA only. No device is needed to build.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 90)
endif()
enable_language(CUDA)
# CMake 3.25 does not know how nvcc 13 is told the standard.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
endif()
find_package(CUDAToolkit REQUIRED)
find_package(CUDNN REQUIRED)
find_package(NCCL REQUIRED)

# biqa_cuda_target(target layer): what the layer's cuda/ and nccl/ folders need. A contraction of a*b+c that the compiler may
# or may not make would break bitwise agreement between kernels; one that is wanted is written as fmaf.
function(biqa_cuda_target target layer)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-fmad=false -Xcompiler=-Wall,-Wextra,-Wshadow>
    $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${BIQA_WERROR}>>:-Werror=all-warnings>)
  if(layer STREQUAL "tensor")
    target_link_libraries(${target} PUBLIC CUDA::cudart)
  elseif(layer STREQUAL "ops")
    target_link_libraries(${target} PRIVATE CUDA::cublasLt CUDNN::cudnn)
  elseif(layer STREQUAL "comm")
    target_link_libraries(${target} PRIVATE NCCL::nccl)
  endif()
endfunction()
