#define NORMWISE_ISA avx2
#include "table.h"
