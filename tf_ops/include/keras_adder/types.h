/* Numbers that name types and passes in all of keras_adder's C interfaces. They
 * are never reused: a new meaning gets a new number. */

#ifndef KERAS_ADDER_TYPES_H_
#define KERAS_ADDER_TYPES_H_

/* Types of elements. */
enum {
  KERAS_ADDER_FLOAT16 = 0,
  KERAS_ADDER_BFLOAT16 = 1,
  KERAS_ADDER_FLOAT32 = 2,
  KERAS_ADDER_FLOAT64 = 3
};

/* Passes of an adder convolution (CVPR 2020, equations 2, 5 and 6). */
enum {
  /* Y(m,n,t) = -sum_ijk |X(m+i,n+j,k) - F(i,j,k,t)| */
  KERAS_ADDER_FORWARD = 0,
  /* dX = sum_t g HT(F - X) */
  KERAS_ADDER_INPUT_GRADIENT = 1,
  /* dF = sum_mn g (X - F), or g sign(X - F) */
  KERAS_ADDER_FILTER_GRADIENT = 2,
  /* Both gradients at once, which takes less time than one after the other. */
  KERAS_ADDER_BACKWARD = 3
};

#endif /* KERAS_ADDER_TYPES_H_ */
