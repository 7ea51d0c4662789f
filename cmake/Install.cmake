# `cmake --install BUILD --prefix PREFIX` installs two components. `runtime`: programs, configurations with the tiny model,
# documents, shell completion and manual pages. `development`: the libraries with their headers and a CMake package
# (examples/rate uses it).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

get_property(programs GLOBAL PROPERTY BIQA_PROGRAMS_tools)
if(BIQA_BENCH)
  list(APPEND programs biqa_bench_program)
endif()
install(TARGETS ${programs} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT runtime)

get_property(layers GLOBAL PROPERTY BIQA_LAYERS)
install(TARGETS ${layers} biqa_warnings EXPORT biqa ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}/biqa COMPONENT development)
install(DIRECTORY src/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/biqa COMPONENT development FILES_MATCHING PATTERN "*.h")
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/biqa)
install(EXPORT biqa NAMESPACE biqa:: DESTINATION ${package} COMPONENT development)
configure_package_config_file(cmake/biqaConfig.cmake.in biqaConfig.cmake INSTALL_DESTINATION ${package})
write_basic_package_version_file(biqaConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/biqaConfig.cmake ${PROJECT_BINARY_DIR}/biqaConfigVersion.cmake DESTINATION ${package}
  COMPONENT development)
if(BIQA_CUDA)
  install(FILES cmake/FindCUDNN.cmake cmake/FindNCCL.cmake DESTINATION ${package} COMPONENT development)
endif()

# The configurations name the tiny model and its data by relative paths.
install(DIRECTORY configs assets DESTINATION ${CMAKE_INSTALL_DATADIR}/biqa COMPONENT runtime)
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT runtime PATTERN decisions EXCLUDE)
install(FILES README.md LICENSE CITATION.cff DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT runtime)
# bash-completion looks for a file by the program's name.
set(completions ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES launch/completion.bash DESTINATION ${completions} COMPONENT runtime RENAME biqa_learner)
set(files "")
foreach(program ${programs})
  get_target_property(name ${program} OUTPUT_NAME)
  list(APPEND files "${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/${name}")
  if(NOT name STREQUAL biqa_learner)
    install(CODE "file(CREATE_LINK biqa_learner \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${completions}/${name}\" SYMBOLIC)"
      COMPONENT runtime)
  endif()
endforeach()
find_program(HELP2MAN help2man)
if(HELP2MAN)
  install(CODE "execute_process(COMMAND bash \"${PROJECT_SOURCE_DIR}/launch/man_pages.sh\"
      \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_MANDIR}/man1\" ${files} COMMAND_ERROR_IS_FATAL ANY)"
    COMPONENT runtime)
endif()
