# CUDA kernels on the model of a block (kernels/tests/simt): the kernels' sources as C++, by the host compiler. What needs
# nvcc is skipped by name where there is none.
set(lk_tests ${CMAKE_SOURCE_DIR}/kernels/tests)

if(NOT LB_FUZZ AND NOT LB_SANITIZE MATCHES "thread")
  enable_language(CXX)
  # C++ is for tests alone. What no sanitizer changes is compiled with the same flags in every build, so that a compiler's
  # cache has it once.
  set(CMAKE_CXX_FLAGS_RELEASE -g1)
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO -g1)
  file(GLOB cuda_kernels CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu)
  file(GLOB cuda_checks CONFIGURE_DEPENDS ${lk_tests}/cuda/*.cu)
  set(simt ${lk_tests}/simt/simt_block.cu ${lk_tests}/simt/simt_warp.cu ${lk_tests}/simt/simt_shadow.cu)
  set(switch ${lk_tests}/simt/simt_switch.cu)
  set(seeded ${lk_tests}/simt/seeded_kernels.cu)
  set_source_files_properties(${cuda_kernels} ${cuda_checks} ${simt} ${switch} ${seeded} ${lk_tests}/simt/test_simt.cu
    ${lk_tests}/simt/dev_simt.cu PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")

  # lk_simt_objects(NAME SANITIZERS SOURCE ...): sources that nvcc takes too, hence other flags than C has
  function(lk_simt_objects name sanitizers)
    add_library(${name} OBJECT ${ARGN})
    target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
    target_compile_features(${name} PRIVATE cxx_std_17)
    target_compile_definitions(${name} PRIVATE _GLIBCXX_BITS_SPECFUN_H) # as for nvcc: C++17's special functions
    target_compile_options(${name} PRIVATE -Wall -Wextra -Wpedantic -Wshadow=local -Wno-unknown-pragmas -Werror
      -ffp-contract=off -O2 -fno-exceptions -fvisibility=hidden)
    if(sanitizers)
      target_compile_options(${name} PRIVATE -fsanitize=${sanitizers})
    endif()
  endfunction()

  # the model is what checks, at every load: of it the sanitizers see the switches of stacks, which they must know; of the
  # checks' operands they see where these end, which is malloc's business
  lk_simt_objects(lk_simt "" ${simt})
  lk_simt_objects(lk_simt_switch "${LB_SANITIZE}" ${switch})
  lk_simt_objects(lk_cuda_checks "" ${cuda_checks})
  target_compile_options(lk_cuda_checks PRIVATE -O1)
  lk_simt_objects(lk_cuda_modeled "${LB_SANITIZE}" ${lk_tests}/simt/dev_simt.cu)
  set(modeled $<TARGET_OBJECTS:lk_cuda_checks> $<TARGET_OBJECTS:lk_cuda_modeled> $<TARGET_OBJECTS:lk_simt>
      $<TARGET_OBJECTS:lk_simt_switch>)
  lk_simt_objects(lk_simt_test "${LB_SANITIZE}" ${lk_tests}/simt/test_simt.cu)
  # the compiler's calls at loads and stores; simt_shadow.cu answers them
  set(hooks -fsanitize=thread --param tsan-instrument-func-entry-exit=0)
  lk_simt_objects(lk_seeded "" ${seeded})
  lk_simt_objects(lk_cuda_hooked "" ${cuda_kernels})
  foreach(name lk_seeded lk_cuda_hooked)
    target_compile_definitions(${name} PRIVATE LK_SIMT)
    target_compile_options(${name} PRIVATE ${hooks} -O1) # the calls are most of what they do
  endforeach()
  # What the model does not know by addresses, since it stays in a thread's registers or on its stack, ends the program.
  target_compile_options(lk_cuda_hooked PRIVATE -fsanitize=bounds,shift,signed-integer-overflow,integer-divide-by-zero
                         -fsanitize-undefined-trap-on-error)

  add_executable(test_simt $<TARGET_OBJECTS:lk_simt_test> $<TARGET_OBJECTS:lk_simt> $<TARGET_OBJECTS:lk_simt_switch>
                 $<TARGET_OBJECTS:lk_seeded>)
  add_executable(checkcuda ${modeled} $<TARGET_OBJECTS:lk_cuda_hooked>)
  set(programs test_simt)
  if(LB_SANITIZE) # the kernels themselves under the sanitizers, without the model's own checks of memory
    lk_simt_objects(lk_cuda_sanitized "${LB_SANITIZE}" ${cuda_kernels})
    target_compile_definitions(lk_cuda_sanitized PRIVATE LK_SIMT)
    # at -O2 the compiler takes seven times as long over them
    target_compile_options(lk_cuda_sanitized PRIVATE -fno-sanitize-recover=all -O0)
    add_executable(checkcuda_sanitized ${modeled} $<TARGET_OBJECTS:lk_cuda_sanitized>)
    list(APPEND programs checkcuda_sanitized)
  endif()
  foreach(name checkcuda ${programs})
    set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
    target_link_libraries(${name} PRIVATE lk)
  endforeach()
  foreach(name ${programs})
    set(brief $<$<STREQUAL:${name},checkcuda_sanitized>:--brief>)
    add_test(NAME ${name} COMMAND ${name} ${brief})
    set_tests_properties(${name} PROPERTIES TIMEOUT 900)
  endforeach()
  # .ci/check_cuda_resources reads from the log what blocks the kernels were launched with
  add_test(NAME checkcuda COMMAND checkcuda --kernels)
  set_tests_properties(checkcuda PROPERTIES TIMEOUT 900)

  if(NOT LB_SANITIZE) # it links this build's objects
    add_test(NAME simt_mutants COMMAND ${lk_tests}/simt/mutants.py ${CMAKE_BINARY_DIR} ${CMAKE_CXX_COMPILER})
    set_tests_properties(simt_mutants PROPERTIES TIMEOUT 1200)
  endif()

  # CUDA's runtime, cuBLASLt and NCCL on the host, where their headers are (kernels/tests/standin): a program that links
  # $<TARGET_OBJECTS:...> of LB_STANDIN runs CUDA code on the model
  find_path(LB_CUDA_INCLUDE cuda_runtime_api.h HINTS ${LB_CUDA_ROOT}/include $ENV{CUDA_HOME}/include
            $ENV{CUDA_PATH}/include /usr/local/cuda/include)
  set(LB_STANDIN)
  if(LB_CUDA_INCLUDE)
    file(GLOB standin CONFIGURE_DEPENDS ${lk_tests}/standin/standin_*.c)
    add_library(lk_standin OBJECT ${standin})
    target_link_libraries(lk_standin PRIVATE lb_flags)
    target_compile_options(lk_standin PRIVATE ${LB_TEST_LEVEL} ${LB_REFERENCE_LEVEL})
    target_include_directories(lk_standin SYSTEM PRIVATE ${LB_CUDA_INCLUDE})
    set_source_files_properties(${lk_tests}/standin/standin_bridge.cu PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
    lk_simt_objects(lk_bridge "${LB_SANITIZE}" ${lk_tests}/standin/standin_bridge.cu)
    foreach(name lk_simt lk_simt_switch lk_cuda_hooked lk_standin lk_bridge)
      set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
      list(APPEND LB_STANDIN $<TARGET_OBJECTS:${name}>)
    endforeach()
    file(GLOB standin_tests CONFIGURE_DEPENDS ${lk_tests}/standin/test_*.c)
    foreach(source ${standin_tests})
      get_filename_component(name ${source} NAME_WE)
      add_executable(${name} ${source} ${LB_STANDIN})
      set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
      target_link_libraries(${name} PRIVATE lk lb_flags Threads::Threads PkgConfig::CMOCKA)
      target_include_directories(${name} SYSTEM PRIVATE ${LB_CUDA_INCLUDE})
      add_test(NAME ${name} COMMAND ${name})
      set_tests_properties(${name} PROPERTIES TIMEOUT 300)
    endforeach()
    add_library(lb_nccl OBJECT ${CMAKE_SOURCE_DIR}/core/dist/comm_nccl.c)
    target_link_libraries(lb_nccl PRIVATE lb_flags)
    target_include_directories(lb_nccl SYSTEM PRIVATE ${LB_CUDA_INCLUDE})
    set_target_properties(lb_nccl PROPERTIES POSITION_INDEPENDENT_CODE ON)
    file(GLOB standin_tests CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/core/tests/cuda/test_comm_*.c)
    foreach(source ${standin_tests})
      lb_test(${source} lb_model lb_comm_threads)
      get_filename_component(name ${source} NAME_WE)
      target_sources(${name} PRIVATE ${LB_STANDIN} $<TARGET_OBJECTS:lb_nccl>)
      set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
      target_include_directories(${name} SYSTEM PRIVATE ${LB_CUDA_INCLUDE})
    endforeach()
    lb_test(${CMAKE_SOURCE_DIR}/core/tests/cuda/test_draw_cuda.c lb_run)
    target_sources(test_draw_cuda PRIVATE ${LB_STANDIN})
    set_target_properties(test_draw_cuda PROPERTIES LINKER_LANGUAGE CXX)
    target_include_directories(test_draw_cuda SYSTEM PRIVATE ${LB_CUDA_INCLUDE})
    # the CUDA backend on the stand-ins, as the library that the program opens
    lb_cuda_module(llmbatch-cuda-standin ${LB_CUDA_INCLUDE} ${LB_STANDIN})
    set_target_properties(llmbatch-cuda-standin PROPERTIES LINKER_LANGUAGE CXX)
    foreach(name test_cuda_fault test_cuda_ahead)
      add_executable(${name} ${CMAKE_SOURCE_DIR}/core/tests/cuda/${name}.c)
      target_link_libraries(${name} PRIVATE lb_core PkgConfig::CMOCKA)
      add_test(NAME ${name} COMMAND ${name} $<TARGET_FILE:llmbatch-cuda-standin>)
      set_tests_properties(${name} PROPERTIES TIMEOUT 1800)
    endforeach()
    foreach(part layers products adapters "greedy;sample;llama-gqa-tied" "contract;sample;llama-gqa-tied")
      list(GET part 0 name)
      add_test(NAME test_golden_cuda_${name} COMMAND test_golden --cuda $<TARGET_FILE:llmbatch-cuda-standin> ${part}
               WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
      set_tests_properties(test_golden_cuda_${name} PROPERTIES TIMEOUT 1200 SKIP_RETURN_CODE 77 COST 80)
    endforeach()
    add_test(NAME test_model_decoder_cuda COMMAND test_model_decoder --cuda $<TARGET_FILE:llmbatch-cuda-standin> sample
             qwen3 WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    # the stand-ins look for leaks themselves; LeakSanitizer falls over in memory that they forbid to the host
    set_tests_properties(test_model_decoder_cuda PROPERTIES TIMEOUT 7200 SKIP_RETURN_CODE 77
                         ENVIRONMENT "ASAN_OPTIONS=detect_leaks=0")
    add_test(NAME test_model_shard_cuda COMMAND test_model_shard --cuda $<TARGET_FILE:llmbatch-cuda-standin>
             WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    set_tests_properties(test_model_shard_cuda PROPERTIES TIMEOUT 1800 SKIP_RETURN_CODE 77)
  else()
    add_test(NAME standin COMMAND sh -c "echo 'skip: standin: no CUDA headers'; exit 77")
    set_tests_properties(standin PROPERTIES SKIP_RETURN_CODE 77)
  endif()

  # the same checks on a device
  if(LB_WITH_CUDA)
    set(device ${lk_tests}/device/dev_cuda.cu)
    set(bench ${lk_tests}/device/bench_cuda.cu)
    set_source_files_properties(${device} ${bench} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
    lk_simt_objects(lk_cuda_device "" ${device})
    lk_simt_objects(lk_cuda_bench "" ${bench})
    add_executable(checkcuda_device $<TARGET_OBJECTS:lk_cuda_checks> $<TARGET_OBJECTS:lk_cuda_device>)
    add_executable(bench_cuda $<TARGET_OBJECTS:lk_cuda_bench>)
    add_dependencies(lb_products bench_cuda)
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
