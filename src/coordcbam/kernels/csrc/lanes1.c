/* Plain C: rows of fewer than four, and compilers without vector types. */
#define LANES 1
#define TABLE coordcbam_lanes1
#include "passes.h"
