# Programs of several ranks: core/tests/mpi/mpi_NAME.c RANKS [RANKS_PER_HOST], under mpirun. Where there is none, the
# tests are skipped by name.
set(lb_mpi ${CMAKE_SOURCE_DIR}/core/tests/mpi)

function(lb_mpi_properties test)
  # The launcher refuses root, which containers run as; ranks of a test take turns on what processors there are.
  # They come first, one at a time with others beside them: at the end each would have the machine to itself, and wait.
  # symbolize=0: cli/tests/ranks.py
  set_tests_properties(${test} PROPERTIES TIMEOUT 300 SKIP_RETURN_CODE 77 PROCESSORS 2 COST 200 LABELS mpi
    ENVIRONMENT "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;LSAN_OPTIONS=suppressions=${lb_mpi}/lsan.supp:print_suppressions=0:symbolize=0")
endfunction()

# lb_mpi_test(PROGRAM RANKS [ARGUMENT ...])
function(lb_mpi_test program ranks)
  string(JOIN _ name ${program} ${ranks} ${ARGN})
  if(LB_WITH_MPI AND MPIEXEC_EXECUTABLE)
    add_test(NAME ${name} COMMAND ${MPIEXEC_EXECUTABLE} -n ${ranks} --oversubscribe --bind-to none
             $<TARGET_FILE:${program}> ${ranks} ${ARGN})
  else()
    add_test(NAME ${name} COMMAND sh -c "echo 'skip: ${name}: no mpirun'; exit 77")
  endif()
  lb_mpi_properties(${name})
endfunction()

if(LB_WITH_MPI)
  file(GLOB programs CONFIGURE_DEPENDS ${lb_mpi}/mpi_*.c)
  foreach(source ${programs})
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    target_link_libraries(${name} PRIVATE lb_model)
  endforeach()
endif()

foreach(ranks 2 3 4 8)
  lb_mpi_test(mpi_reduce ${ranks})
endforeach()
lb_mpi_test(mpi_reduce 2 1)
lb_mpi_test(mpi_reduce 3 1)
lb_mpi_test(mpi_reduce 4 2)
lb_mpi_test(mpi_reduce 4 3) # hosts that hold no aligned blocks
lb_mpi_test(mpi_reduce 8 4)
lb_mpi_test(mpi_reduce 8 3)

lb_mpi_test(mpi_model 2)
lb_mpi_test(mpi_model 4)
lb_mpi_test(mpi_model 4 2)
lb_mpi_test(mpi_model 8)

foreach(arguments "2" "3" "4" "2;1" "4;2" "4;3")
  lb_mpi_test(mpi_world ${arguments})
endforeach()

if(LB_WITH_MPI AND MPIEXEC_EXECUTABLE)
  add_test(NAME mpi_fault COMMAND ${lb_mpi}/mpi_fault.py ${MPIEXEC_EXECUTABLE} $<TARGET_FILE:mpi_fault>)
else()
  add_test(NAME mpi_fault COMMAND sh -c "echo 'skip: mpi_fault: no mpirun'; exit 77")
endif()
lb_mpi_properties(mpi_fault)
# its limits are seconds; first, while the sanitized builds have the processors that it leaves idle
set_tests_properties(mpi_fault PROPERTIES RUN_SERIAL TRUE COST 200)
