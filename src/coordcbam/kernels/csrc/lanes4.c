/* 128 bits: SSE2, NEON or whatever the compiler has. */
#include "table.h"

#ifdef HAVE_LANES4
#define LANES 4
#define TABLE coordcbam_lanes4
#include "passes.h"
#else
typedef int nothing_here;
#endif
