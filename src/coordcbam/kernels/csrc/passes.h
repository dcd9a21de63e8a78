/* The table of this vector width: include with LANES and TABLE defined. */
#include "nchw_factors.h"
#include "nchw_input.h"
#include "nchw_profile.h"
#include "nchw_scale.h"
#include "nhwc_factors.h"
#include "nhwc_input.h"
#include "nhwc_profile.h"
#include "nhwc_scale.h"
#include "slopes.h"

const Table TABLE = {
    {nchw_profile, nhwc_profile}, {nchw_scale, nhwc_scale}, {nchw_measure, nhwc_measure},
    {nchw_factors, nhwc_factors}, {nchw_input, nhwc_input},
    side_nets, side_slopes,
};
