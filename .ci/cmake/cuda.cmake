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
      -ffp-contract=off -O2 -fno-exceptions)
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
  set(programs test_simt)
  if(LB_SANITIZE) # the kernels themselves under the sanitizers, without the model's own checks of memory
    lk_simt_objects(lk_cuda_sanitized "${LB_SANITIZE}" ${cuda_kernels})
    target_compile_definitions(lk_cuda_sanitized PRIVATE LK_SIMT)
    target_compile_options(lk_cuda_sanitized PRIVATE -fno-sanitize-recover=all)
    add_executable(checkcuda_sanitized $<TARGET_OBJECTS:lk_cuda_checks> $<TARGET_OBJECTS:lk_simt>
                   $<TARGET_OBJECTS:lk_cuda_sanitized>)
    list(APPEND programs checkcuda_sanitized)
  endif()
  foreach(name checkcuda ${programs})
    set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
    target_link_libraries(${name} PRIVATE lk)
  endforeach()
  foreach(name ${programs})
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES TIMEOUT 900)
  endforeach()
  # .ci/check_cuda_resources reads from the log what blocks the kernels were launched with
  add_test(NAME checkcuda COMMAND checkcuda --kernels)
  set_tests_properties(checkcuda PROPERTIES TIMEOUT 900)

  if(NOT LB_SANITIZE) # it links this build's objects
    add_test(NAME simt_mutants COMMAND ${lk_tests}/simt/mutants.py ${CMAKE_BINARY_DIR} ${CMAKE_CXX_COMPILER})
    set_tests_properties(simt_mutants PROPERTIES TIMEOUT 1200)
  endif()

  # the same checks on a device
  if(LB_WITH_CUDA)
    set(device ${lk_tests}/device/dev_cuda.cu)
    set(bench ${lk_tests}/device/bench_cuda.cu)
    set_source_files_properties(${device} ${bench} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
    lk_simt_objects(lk_cuda_device "" ${cuda_checks} ${device})
    lk_simt_objects(lk_cuda_bench "" ${bench})
    add_executable(checkcuda_device $<TARGET_OBJECTS:lk_cuda_device>)
    add_executable(bench_cuda $<TARGET_OBJECTS:lk_cuda_bench>)
    foreach(name lk_cuda_device lk_cuda_bench)
      target_include_directories(${name} SYSTEM PRIVATE ${LB_CUDA_ROOT}/include)
    endforeach()
    foreach(name checkcuda_device bench_cuda)
      set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
      target_link_libraries(${name} PRIVATE lk_cuda lk)
    endforeach()
    add_test(NAME checkcuda_device COMMAND sh -c "LB_TEST_FULL=1 $<TARGET_FILE:checkcuda_device>; e=$?; [ $e -ne 77 ] || echo 'skip: checkcuda_device: no GPU'; exit $e")
    set_tests_properties(checkcuda_device PROPERTIES SKIP_RETURN_CODE 77)
  endif()
endif()
