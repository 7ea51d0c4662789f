# `cmake --install BUILD --prefix PREFIX`: programs, configurations with the tiny model, documents, shell completion, and the
# libraries with their headers and a CMake package (examples/rate uses it).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

get_property(programs GLOBAL PROPERTY BIQA_PROGRAMS_tools)
if(BIQA_BENCH)
  list(APPEND programs biqa_bench_program)
endif()
install(TARGETS ${programs} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})

get_property(layers GLOBAL PROPERTY BIQA_LAYERS)
install(TARGETS ${layers} biqa_warnings EXPORT biqa ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}/biqa)
install(DIRECTORY src/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/biqa FILES_MATCHING PATTERN "*.h")
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/biqa)
install(EXPORT biqa NAMESPACE biqa:: DESTINATION ${package})
configure_package_config_file(cmake/biqaConfig.cmake.in biqaConfig.cmake INSTALL_DESTINATION ${package})
write_basic_package_version_file(biqaConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/biqaConfig.cmake ${PROJECT_BINARY_DIR}/biqaConfigVersion.cmake DESTINATION ${package})
if(BIQA_CUDA)
  install(FILES cmake/FindCUDNN.cmake cmake/FindNCCL.cmake DESTINATION ${package})
endif()

# The configurations name the tiny model and its data by relative paths.
install(DIRECTORY configs assets DESTINATION ${CMAKE_INSTALL_DATADIR}/biqa)
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR} PATTERN decisions EXCLUDE)
install(FILES README.md LICENSE CITATION.cff DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES launch/completion.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME biqa_learner)
# bash-completion looks for a file by the program's name.
foreach(program ${programs})
  get_target_property(name ${program} OUTPUT_NAME)
  if(NOT name STREQUAL biqa_learner)
    install(CODE "file(CREATE_LINK biqa_learner
      \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_DATADIR}/bash-completion/completions/${name}\" SYMBOLIC)")
  endif()
endforeach()
