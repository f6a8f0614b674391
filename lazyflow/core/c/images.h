/* Convolutions and pooling over images with channels, of any number of axes.
 *
 * No image is laid out window by window. Each channel is copied once into *planes*, with zeros between its rows, so that
 * what one element of a kernel reads for all places of a window is one stretch of a plane: the sum over channels and
 * elements of the kernel then is a product of matrices whose second one is never made (the indirection of Dukhan 2019,
 * "The Indirect Convolution Algorithm", by a shift). With steps of s there are s planes along an axis, of every s-th
 * element. Rows share the zeros between them, and so do images, so that places run on from one to the next; what lies
 * between is computed, and left.
 */
#ifndef LAZYFLOW_IMAGES_H
#define LAZYFLOW_IMAGES_H

#include <stddef.h>
#include <stdint.h>

/* Where things lie, for one size of image and one kind of windows. A plane of an image is `rows` rows of `pitch` places.
 * There are lead * last planes a channel, for the steps of all axes but the last one, and for those of the last. Row r of
 * the planes with lead step f begins at element row_from[f * rows + r] of the channel, or is of zeros (-1); of last step e
 * its places begin[e], begin[e] + 1, ..., count[e] of them, are the elements from[e], from[e] + step, ... of that row. An
 * element t of the kernel reads plane[t], `shift[t]` places on; the largest shift is the `margin`. Row r of the maps, of
 * `width` elements, stands in row map_row[r]. */
typedef struct {
    ptrdiff_t size, rows, pitch, lead, last, step, taps, margin, map_rows, width;
    const int64_t *row_from, *begin, *count, *from, *plane, *shift, *map_row;
} lf_places;

/* `count` images of one size, and their maps, one behind the other. */
typedef struct {
    const lf_places *places;
    ptrdiff_t count;
    char *image, *map;
} lf_images;

/* Images of `sizes` sizes, of groups * channels channels, and maps of groups * maps; a weight (groups, maps, channels,
 * taps), contiguous; a bias for each channel of the result, or NULL. `add`: what is computed is added to what is there,
 * of one group. `nans`, or NULL: of each size whether a result may be NaN, to which then nothing is added. */
typedef struct {
    int is_double, add;
    ptrdiff_t groups, channels, maps, sizes;
    const lf_images *images;
    char *weight;
    const char *bias;
    unsigned char *nans;
} lf_convolution;

/* The three products of lazyflow/ops/conv.py, each of two of image, maps and weight into the third. They return 0 where
 * there is no memory left, and give the same bits on any number of threads and for any number of images. */
int lf_correlate(const lf_convolution *convolution);
int lf_spread(const lf_convolution *convolution);
int lf_weigh(const lf_convolution *convolution);

/* Windows along one axis: `before` elements of padding in front, and as many behind as they reach. */
typedef struct {
    ptrdiff_t size, kernel, stride, dilation, before, out;
} lf_axis;

/* Max pooling of `planes` planes, one after the other, of three axes. */
typedef struct {
    int is_double;
    ptrdiff_t planes;
    lf_axis axis[3];
} lf_pooling;

/* The largest element of each window, NaN if one is; and the cotangents of these, `share`, added to `back` at the first of
 * the largest, or the first NaN. They return 0 where there is no memory left. */
int lf_max_pool(const lf_pooling *pooling, const void *x, void *out);
int lf_max_pool_back(const lf_pooling *pooling, const void *x, const void *y, const void *share, void *back);

#endif
