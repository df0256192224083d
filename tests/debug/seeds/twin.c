// SPDX-License-Identifier: GPL-2.0
/* The same under another module's name. */
#include "seeds.c"
