# SPDX-License-Identifier: Apache-2.0
# For Spack 1.0 and later. Written from Spack's documentation; no Spack has built it yet.
from spack_repo.builtin.build_systems.cmake import CMakePackage
from spack_repo.builtin.build_systems.cuda import CudaPackage

from spack.package import *


class Biqa(CMakePackage, CudaPackage):
    """Trains vision-language models to describe, explain and rate image quality the way people do."""

    # The development version is the checkout that holds this recipe: `spack develop --path . biqa@main`. A release adds a
    # line with the archive of launch/release.sh and its checksum.
    version("main")

    variant("tests", default=False, description="Build the tests")

    license("Apache-2.0")

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.22:", type="build")
    depends_on("ninja", type="build")
    depends_on("pkgconfig", type="build")

    depends_on("mpi")
    depends_on("hdf5@1.10:~mpi")
    depends_on("onednn@2.6:")
    depends_on("yaml-cpp")
    depends_on("glog")
    depends_on("gflags")
    depends_on("fmt@7:")
    depends_on("nlohmann-json")
    depends_on("xxhash")
    depends_on("utf8proc")
    depends_on("cminpack")
    depends_on("jpeg")
    depends_on("libpng")
    depends_on("libwebp")
    depends_on("libtiff")
    depends_on("zlib-api")
    depends_on("libzip")
    depends_on("pugixml")
    depends_on("matio")
    depends_on("googletest+gmock", when="+tests")

    with when("+cuda"):
        depends_on("cuda@12.4:")
        depends_on("cudnn@9:")
        depends_on("nccl@2.14:")
        for arch in ("10", "11", "12", "13", "20", "21", "30", "32", "35", "37", "50", "52", "53", "60", "61", "62", "70", "72", "75"):
            conflicts(f"cuda_arch={arch}", msg="biqa needs compute capability 8.0 or later")

    requires("%gcc@12:", "%clang@14:", policy="one_of", msg="biqa is C++20")

    generator("ninja")

    def cmake_args(self):
        args = [
            self.define_from_variant("BIQA_CUDA", "cuda"),
            self.define_from_variant("BIQA_TESTS", "tests"),
        ]
        if self.spec.satisfies("+cuda") and "none" not in self.spec.variants["cuda_arch"].value:
            args.append(self.define("BIQA_CUDA_ARCHITECTURES", self.spec.variants["cuda_arch"].value))
        return args
