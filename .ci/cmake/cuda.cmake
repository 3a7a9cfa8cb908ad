# CUDA kernels on the model of a block (kernels/tests/simt): the kernels' sources as C++, by the host compiler. What needs
# nvcc is skipped by name where there is none.
set(lk_tests ${CMAKE_SOURCE_DIR}/kernels/tests)

if(NOT LB_FUZZ AND NOT LB_SANITIZE MATCHES "thread")
  enable_language(CXX)
  file(GLOB cuda_kernels CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu)
  file(GLOB cuda_checks CONFIGURE_DEPENDS ${lk_tests}/cuda/*.cu)
  set(simt ${lk_tests}/simt/simt_block.cu ${lk_tests}/simt/simt_switch.cu ${lk_tests}/simt/simt_warp.cu
      ${lk_tests}/simt/simt_shadow.cu)
  set(seeded ${lk_tests}/simt/seeded_kernels.cu)
  set_source_files_properties(${cuda_kernels} ${cuda_checks} ${simt} ${seeded} ${lk_tests}/simt/test_simt.cu
    ${lk_tests}/simt/dev_simt.cu PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")

  # lk_simt_objects(NAME SANITIZERS SOURCE ...): sources that nvcc takes too, hence other flags than C has
  function(lk_simt_objects name sanitizers)
    add_library(${name} OBJECT ${ARGN})
    target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
    target_compile_features(${name} PRIVATE cxx_std_17)
    target_compile_options(${name} PRIVATE -Wall -Wextra -Wpedantic -Wshadow=local -Wno-unknown-pragmas -Werror
      -ffp-contract=off -O1 -fno-exceptions)
    if(sanitizers)
      target_compile_options(${name} PRIVATE -fsanitize=${sanitizers})
    endif()
  endfunction()

  lk_simt_objects(lk_simt "${LB_SANITIZE}" ${simt})
  lk_simt_objects(lk_cuda_checks "${LB_SANITIZE}" ${cuda_checks} ${lk_tests}/simt/dev_simt.cu)
  lk_simt_objects(lk_simt_test "${LB_SANITIZE}" ${lk_tests}/simt/test_simt.cu)
  # the compiler's calls at loads and stores; simt_shadow.cu answers them
  set(hooks -fsanitize=thread --param tsan-instrument-func-entry-exit=0)
  lk_simt_objects(lk_seeded "" ${seeded})
  lk_simt_objects(lk_cuda_hooked "" ${cuda_kernels})
  foreach(name lk_seeded lk_cuda_hooked)
    target_compile_definitions(${name} PRIVATE LK_SIMT)
    target_compile_options(${name} PRIVATE ${hooks})
  endforeach()

  add_executable(test_simt $<TARGET_OBJECTS:lk_simt_test> $<TARGET_OBJECTS:lk_simt> $<TARGET_OBJECTS:lk_seeded>)
  add_executable(checkcuda $<TARGET_OBJECTS:lk_cuda_checks> $<TARGET_OBJECTS:lk_simt> $<TARGET_OBJECTS:lk_cuda_hooked>)
  set(programs test_simt checkcuda)
  if(LB_SANITIZE) # the kernels themselves under the sanitizers, without the model's own checks of memory
    lk_simt_objects(lk_cuda_sanitized "${LB_SANITIZE}" ${cuda_kernels})
    target_compile_definitions(lk_cuda_sanitized PRIVATE LK_SIMT)
    target_compile_options(lk_cuda_sanitized PRIVATE -fno-sanitize-recover=all)
    add_executable(checkcuda_sanitized $<TARGET_OBJECTS:lk_cuda_checks> $<TARGET_OBJECTS:lk_simt>
                   $<TARGET_OBJECTS:lk_cuda_sanitized>)
    list(APPEND programs checkcuda_sanitized)
  endif()
  foreach(name ${programs})
    set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
    target_link_libraries(${name} PRIVATE lk)
    add_test(NAME ${name} COMMAND ${name})
  endforeach()
endif()
