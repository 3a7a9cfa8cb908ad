# The CUDA backend, a library of its own that the program opens when it is asked for (core/backend/backend_cuda_open.h).
file(RELATIVE_PATH from_bin ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR}/llmbatch)
target_compile_definitions(lb_backend PRIVATE LB_CUDA_LIBRARY_FROM_BIN="${from_bin}")

# Sources that are in the library alone; the program has the others too.
file(GLOB LB_CUDA_OWN CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/core/backend/backend_cuda*.c)
list(APPEND LB_CUDA_OWN ${CMAKE_SOURCE_DIR}/core/dist/cuda_library.c ${CMAKE_SOURCE_DIR}/core/dist/comm_nccl.c)
foreach(layer lb_backend lb_dist)
  get_target_property(sources ${layer} SOURCES)
  list(REMOVE_ITEM sources ${LB_CUDA_OWN})
  set_target_properties(${layer} PROPERTIES SOURCES "${sources}")
endforeach()
set(LB_CUDA_SOURCES ${LB_CUDA_OWN} kernels/cuda/lk_plan.c)
foreach(name backend/head backend/step backend/team backend/tensor base/err base/log base/mem base/mem_free base/file base/str)
  list(APPEND LB_CUDA_SOURCES core/${name}.c)
endforeach()
list(TRANSFORM LB_CUDA_SOURCES PREPEND ${CMAKE_SOURCE_DIR}/ REGEX "^[^/]")

# lb_cuda_module(NAME INCLUDE OBJECT ...): the library from its sources and these objects; INCLUDE has CUDA's headers
function(lb_cuda_module name include)
  add_library(${name} MODULE ${LB_CUDA_SOURCES} ${ARGN})
  # no name of its own in the flags: the stand-ins' library is made of the same objects, for a compiler's cache too
  set_target_properties(${name} PROPERTIES PREFIX "" DEFINE_SYMBOL "" LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}
                        LINK_DEPENDS ${CMAKE_SOURCE_DIR}/.ci/cmake/cuda_library.map)
  target_link_libraries(${name} PRIVATE lb_flags PkgConfig::XXHASH Threads::Threads m)
  target_include_directories(${name} SYSTEM PRIVATE ${include})
  target_link_options(${name} PRIVATE -Wl,--version-script=${CMAKE_SOURCE_DIR}/.ci/cmake/cuda_library.map
                      -Wl,-Bsymbolic)
endfunction()

if(LB_WITH_CUDA)
  foreach(name nccl cublasLt)
    find_library(LB_LIBRARY_${name} ${name} HINTS ${LB_CUDA_ROOT}/lib64 ${LB_CUDA_ROOT}/lib)
    if(NOT LB_LIBRARY_${name} AND LB_CUDA STREQUAL "ON")
      message(FATAL_ERROR "LB_CUDA is ON, and there is no lib${name}")
    elseif(NOT LB_LIBRARY_${name})
      message(STATUS "no lib${name}: ${LB_NVCC} is there, but llmbatch-cuda.so is not built")
    endif()
  endforeach()
endif()
if(LB_WITH_CUDA AND LB_LIBRARY_nccl AND LB_LIBRARY_cublasLt)
  lb_cuda_module(llmbatch-cuda ${LB_CUDA_ROOT}/include)
  target_link_libraries(llmbatch-cuda PRIVATE lk_cuda stdc++ ${LB_LIBRARY_nccl} ${LB_LIBRARY_cublasLt})
  target_link_options(llmbatch-cuda PRIVATE -Wl,--no-undefined)
  # by itself: a package that holds it needs CUDA's libraries
  install(TARGETS llmbatch-cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/llmbatch COMPONENT cuda EXCLUDE_FROM_ALL)
endif()
