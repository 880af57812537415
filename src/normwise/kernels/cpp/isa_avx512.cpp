#define NORMWISE_ISA avx512
#include "table.h"
