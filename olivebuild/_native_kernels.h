/* The kernels of _native.c that are vectorised by the compiler: included once for each set of instructions, which NAMED tells apart. */

/* W + delta * scale */

INLINE void NAMED(add_as)(const void *base, const float *delta, float scale, void *out, size_t count, enum format format) {
    for (size_t i = 0; i < count; i++) {
        float product = delta[i] * scale;
        narrow(out, i, format, product + widen(base, i, format));
    }
}

static void NAMED(add)(const void *base, const float *delta, float scale, void *out, size_t count, enum format format) {
    if (format == BF16) NAMED(add_as)(base, delta, scale, out, count, BF16);
    else if (format == F16) NAMED(add_as)(base, delta, scale, out, count, F16);
    else NAMED(add_as)(base, delta, scale, out, count, F32);
}

/* For each row: (after - before) . probe, and after . after. Sums over lanes, so that they run in vectors. */

INLINE void NAMED(residual_as)(const char *before, const char *after, const float *probe, size_t rows, size_t columns, double *wrong, double *squares,
                        enum format format) {
    for (size_t r = 0; r < rows; r++) {
        const void *x = before + r * columns * SIZE[format], *y = after + r * columns * SIZE[format];
        float moved[LANES] = {0}, size[LANES] = {0};
        size_t i = 0;
        for (; i + LANES <= columns; i += LANES)
            for (int l = 0; l < LANES; l++) {
                float b = widen(x, i + l, format), a = widen(y, i + l, format);
                moved[l] += (a - b) * probe[i + l];
                size[l] += a * a;
            }
        for (; i < columns; i++) {
            float b = widen(x, i, format), a = widen(y, i, format);
            moved[0] += (a - b) * probe[i];
            size[0] += a * a;
        }
        wrong[r] = squares[r] = 0;
        for (int l = 0; l < LANES; l++) { wrong[r] += moved[l]; squares[r] += size[l]; }
    }
}

static void NAMED(residual)(const char *before, const char *after, const float *probe, size_t rows, size_t columns, double *wrong,
                            double *squares, enum format format) {
    if (format == BF16) NAMED(residual_as)(before, after, probe, rows, columns, wrong, squares, BF16);
    else if (format == F16) NAMED(residual_as)(before, after, probe, rows, columns, wrong, squares, F16);
    else NAMED(residual_as)(before, after, probe, rows, columns, wrong, squares, F32);
}

/* Block-wise quantisation: see Quantiser in ml/kernels/blockwise.py. */

INLINE int NAMED(quantise_as)(const void *values, size_t blocks, struct options o, uint8_t *packed, void *scales, uint8_t *zeros, enum format format,
                       const int block, const int bits) {
    const float top = bits == 4 ? 15.0f : 255.0f, middle = bits == 4 ? 8.0f : 128.0f;
    const lanes none = {0}, most_level = none + (top + 0.5f);
    const int count = block / LANES;
    masks odd = {0};
    for (size_t n = 0; n < blocks; n++) {
        lanes x[MAX_BLOCK / LANES], high = none, low = none;
        for (int i = 0; i < count; i++) {
            size_t at = n * block + i * LANES;
            if (format == F32) memcpy(&x[i], (const float *)values + at, sizeof x[i]);
            else if (format == BF16) {
                shorts stored;
                memcpy(&stored, (const uint16_t *)values + at, sizeof stored);
                x[i] = (lanes)(__builtin_convertvector(stored, masks) << 16);
            } else {
                lanes wide = none;
                for (int l = 0; l < LANES; l++) wide[l] = widen(values, at + l, format);
                x[i] = wide;
            }
            odd |= ((masks)x[i] & 0x7F800000) == 0x7F800000;
            high = i ? MAX(high, x[i]) : x[i];
            low = i ? MIN(low, x[i]) : x[i];
        }
        high = MAX(high, TURNED(high, 8)); low = MIN(low, TURNED(low, 8));
        high = MAX(high, TURNED(high, 4)); low = MIN(low, TURNED(low, 4));
        high = MAX(high, TURNED(high, 2)); low = MIN(low, TURNED(low, 2));
        high = MAX(high, TURNED(high, 1)); low = MIN(low, TURNED(low, 1));
        float most = high[0], least = low[0], scale, zero;
        if (o.symmetric) {
            float ends = most > -least ? most : least;
            /* A scale of zero has the sign of the block's first zero. */
            scale = (ends == 0 ? x[0][0] : ends) / -middle;
            zero = middle;
        } else {
            most = most > 0 ? most : 0;
            least = least < 0 ? least : 0;
            scale = (most - least) / top;
            zero = floorf(0.5f - (scale != 0 ? least / scale : 0));
            zero = zero > 0 ? zero : 0;
            zero = zero < top ? zero : top;
            zeros[n] = (uint8_t)zero;
        }
        narrow(scales, n, o.scales, scale);
        float used = o.scales == F16 ? widen(scales, n, F16) : scale, inverse = used != 0 ? 1.0f / used : 0.0f;
        for (int i = 0; i < count; i++) {
            lanes level = x[i] * inverse;
            level = level + zero;
            level = level + 0.5f;
            /* A number that is none becomes 0. */
            level = WHERE(level > none, level, none);
            level = WHERE(level < most_level, level, most_level);
            bytes small = __builtin_convertvector(__builtin_convertvector(level, masks), bytes);
            if (bits == 8) memcpy(packed + n * block + i * LANES, &small, LANES);
            else {
                pairs two = (pairs)small;
                halves one = __builtin_convertvector(two | (two >> 4), halves);
                memcpy(packed + (n * block + i * LANES) / 2, &one, LANES / 2);
            }
        }
    }
    int32_t any = 0;
    for (int l = 0; l < LANES; l++) any |= odd[l];
    return !any;
}

INLINE int NAMED(quantise_in)(const void *values, size_t blocks, struct options o, uint8_t *packed, void *scales, uint8_t *zeros, enum format format) {
    /* The usual block is worth code of its own. */
    if (o.bits == 4 && o.block == 32) return NAMED(quantise_as)(values, blocks, o, packed, scales, zeros, format, 32, 4);
    return NAMED(quantise_as)(values, blocks, o, packed, scales, zeros, format, o.block, o.bits);
}

static int NAMED(quantise)(const void *values, size_t blocks, struct options o, uint8_t *packed, void *scales, uint8_t *zeros, enum format format) {
    if (format == BF16) return NAMED(quantise_in)(values, blocks, o, packed, scales, zeros, BF16);
    if (format == F16) return NAMED(quantise_in)(values, blocks, o, packed, scales, zeros, F16);
    return NAMED(quantise_in)(values, blocks, o, packed, scales, zeros, F32);
}

/* The k-quant algorithm: see KQuantiser in ml/kernels/k_quant.py. Sixteen blocks at a time, one in each lane, so that sums keep their order. */

static lanes NAMED(added)(const lanes *terms, int count) {
    if (count > 128) return NAMED(added)(terms, count / 2) + NAMED(added)(terms + count / 2, count / 2);
    lanes total[8];
    for (int i = 0; i < 8; i++) total[i] = terms[i];
    for (int start = 8; start < count; start += 8)
        for (int i = 0; i < 8; i++) total[i] = total[i] + terms[start + i];
    return ((total[0] + total[1]) + (total[2] + total[3])) + ((total[4] + total[5]) + (total[6] + total[7]));
}

/* x[block] -> the best grid's least value and scale; 0 where a number is none, or too large to be squared: left to numpy. */
static __attribute__((noinline)) int NAMED(search)(const lanes *x, int block, float highest, lanes *found_least, lanes *found_scale) {
    const lanes none = {0}, one = none + 1.0f, top = none + highest;
    lanes weight[MAX_BLOCK], level[MAX_BLOCK], a[MAX_BLOCK], b[MAX_BLOCK], c[MAX_BLOCK];
    lanes least = x[0], most = x[0], mean, scale = none, best = none;
    for (int i = 0; i < block; i++) {
        a[i] = x[i] * x[i];
        least = MIN(least, x[i]);
        most = MAX(most, x[i]);
    }
    mean = NAMED(added)(a, block) / (float)block;
    float roots[LANES];
    memcpy(roots, &mean, sizeof roots);
    for (int l = 0; l < LANES; l++) {
        roots[l] = sqrtf(roots[l]);
        if (!(roots[l] < INFINITY)) return 0;
    }
    memcpy(&mean, roots, sizeof roots);
    for (int i = 0; i < block; i++) {
        weight[i] = mean + (lanes)((masks)x[i] & 0x7FFFFFFF);
        a[i] = weight[i] * x[i];
    }
    const lanes sum_w = NAMED(added)(weight, block), sum_x = NAMED(added)(a, block);
    for (int step = -1; step < 20; step++) {
        const lanes levels = step < 0 ? top : none + (float)(-1 + 0.1 * step + highest), range = most - least;
        lanes inverse = WHERE(range != none, levels / range, one), new_scale, new_least;
        float steep[LANES];
        memcpy(steep, &inverse, sizeof steep);
        for (int l = 0; l < LANES; l++)
            if (!(fabsf(steep[l]) < INFINITY)) return 0;
        for (int i = 0; i < block; i++) {
            /* To nearest, ties to even: a float has no fraction bits from 2^23 on. What is above 2^22 here is clipped all the same. */
            lanes rounded = (inverse * (x[i] - least) + 12582912.0f) - 12582912.0f;
            rounded = MAX(rounded, none);
            level[i] = MIN(rounded, top);
            a[i] = weight[i] * level[i];
            b[i] = a[i] * level[i];
            c[i] = a[i] * x[i];
        }
        if (step < 0) { new_scale = one / inverse; new_least = least; }
        else {
            lanes sum_l = NAMED(added)(a, block), sum_l2 = NAMED(added)(b, block), sum_xl = NAMED(added)(c, block);
            lanes divisor = sum_w * sum_l2 - sum_l * sum_l;
            new_scale = (sum_w * sum_xl - sum_x * sum_l) / divisor;
            new_least = (sum_l2 * sum_x - sum_l * sum_xl) / divisor;
        }
        for (int i = 0; i < block; i++) {
            lanes wrong = new_scale * level[i] + new_least - x[i];
            a[i] = weight[i] * (wrong * wrong);
        }
        lanes error = NAMED(added)(a, block);
        masks better = error < best;
        if (step < 0) better = ~(better ^ better);
        best = WHERE(better, error, best);
        scale = WHERE(better, new_scale, scale);
        least = WHERE(better, new_least, least);
    }
    *found_least = least;
    *found_scale = scale;
    return 1;
}

static int NAMED(k_quantise)(const void *values, size_t blocks, struct options o, uint8_t *packed, void *scales, uint8_t *zeros, enum format format) {
    const float highest = o.bits == 4 ? 15.0f : 255.0f;
    for (size_t first = 0; first < blocks; first += LANES) {
        const int there = blocks - first < LANES ? (int)(blocks - first) : LANES;
        lanes x[MAX_BLOCK], least, scale;
        float(*given)[LANES] = (float(*)[LANES])x, leasts[LANES], all_scales[LANES];
        memset(x, 0, sizeof(lanes) * o.block);
        for (int l = 0; l < there; l++)
            for (int i = 0; i < o.block; i++) given[i][l] = widen(values, (first + l) * o.block + i, format);
        if (!NAMED(search)(x, o.block, highest, &least, &scale)) return 0;
        memcpy(leasts, &least, sizeof leasts);
        memcpy(all_scales, &scale, sizeof all_scales);
        for (int l = 0; l < there; l++) {
            const size_t n = first + l;
            float zero = rintf(-leasts[l] / all_scales[l]);
            if (!(fabsf(zero) < INFINITY)) return 0;
            zero = zero > 0 ? zero : 0;
            zero = zero < highest ? zero : highest;
            zeros[n] = (uint8_t)zero;
            narrow(scales, n, o.scales, all_scales[l]);
            int32_t made[MAX_BLOCK];
            /* In float64, as there. */
            for (int i = 0; i < o.block; i++) {
                double level = rint(given[i][l] / (double)all_scales[l] + zero);
                level = level > 0 ? level : 0;
                made[i] = (int32_t)(level < highest ? level : highest);
            }
            if (o.bits == 8)
                for (int i = 0; i < o.block; i++) packed[n * o.block + i] = (uint8_t)made[i];
            else
                for (int i = 0; i < o.block / 2; i++) packed[n * o.block / 2 + i] = (uint8_t)(made[2 * i] | made[2 * i + 1] << 4);
        }
    }
    return 1;
}
