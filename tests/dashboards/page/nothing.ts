// Stands in for the code editor, which no picture shows and which is 80 MB.
export default {};
